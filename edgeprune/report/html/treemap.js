// Trees of tiles: switch how bytes are counted, go into a block and back. All layouts stand in the picture.
(() => {
  for (const figure of document.querySelectorAll("figure")) {
    const picture = figure.querySelector("svg.treemap");
    if (picture) start(figure, picture);
  }

  function start(figure, picture) {
    const controls = figure.querySelector(".controls");
    const [, , width, height] = picture.getAttribute("viewBox").split(" ").map(Number);
    const tiles = [...picture.querySelectorAll("g")];
    const buttons = [...controls.querySelectorAll("button")];
    const back = controls.querySelector('[data-key="back"]');
    const where = controls.querySelector(".where");
    let measure = buttons.find((one) => one.getAttribute("aria-pressed") === "true").dataset.value;
    const into = [];
    controls.hidden = false;
    picture.setAttribute("role", "group"); // what can be gone into is no part of an image
    for (const tile of tiles) {
      if (!tile.classList.contains("block")) continue;
      tile.setAttribute("tabindex", "0");
      tile.setAttribute("role", "button");
      tile.setAttribute("aria-label", `Go into ${name(tile)}`);
    }

    function box(tile, name) {
      const written = tile.getAttribute(name);
      return written ? written.split(" ").map(Number) : null;
    }

    function draw() {
      const block = into.at(-1);
      const [x0, y0, w0, h0] = (block && box(block, `data-${measure}-in`)) || [0, 0, width, height];
      // As many units as pixels, so that letters keep their size on a phone.
      const wide = picture.parentElement.getBoundingClientRect().width || width;
      const high = Math.max(wide * height / width, 360);
      picture.setAttribute("viewBox", `0 0 ${wide.toFixed(0)} ${high.toFixed(0)}`);
      picture.setAttribute("width", wide.toFixed(0));
      picture.setAttribute("height", high.toFixed(0));
      const [sx, sy] = [wide / w0, high / h0];
      for (const tile of tiles) {
        const own = box(tile, `data-${measure}`);
        const inside = own && own[2] > 0 && own[0] < x0 + w0 - 0.1 && own[0] + own[2] > x0 + 0.1 &&
          own[1] < y0 + h0 - 0.1 && own[1] + own[3] > y0 + 0.1 && !into.includes(tile);
        tile.classList.toggle("gone", !inside);
        if (!inside) continue;
        const within = box(tile, `data-${measure}-in`);
        const strip = within ? (within[1] - own[1]) * sy + 2 : own[3] * sy;
        put(tile, [(own[0] - x0) * sx, (own[1] - y0) * sy, own[2] * sx, own[3] * sy], strip);
      }
      back.disabled = into.length === 0;
      where.textContent = into.map((one) => name(one)).join(" › ");
    }

    function put(tile, [x, y, w, h], room) {
      const [rect, text] = [tile.querySelector("rect"), tile.querySelector("text")];
      for (const [key, value] of Object.entries({ x, y, width: Math.max(0, w), height: Math.max(0, h) })) {
        rect.setAttribute(key, value.toFixed(1));
      }
      text.setAttribute("x", (x + 4).toFixed(1));
      text.setAttribute("y", (y + 12).toFixed(1));
      text.textContent = room >= 14 && w >= 33 ? fitting(name(tile), (w - 6) / 6.4) : "";
      const { zeros, grown } = tile.dataset;
      if (zeros) rect.setAttribute("fill-opacity", picture.classList.contains("by-change") ? grown : zeros);
    }

    function name(tile) {
      return tile.querySelector("text").dataset.name;
    }

    function fitting(words, most) {
      const count = Math.max(4, Math.floor(most));
      if (words.length <= count) return words;
      const head = Math.floor((count - 1) / 3);
      return `${words.slice(0, head)}…${words.slice(words.length - (count - 1 - head))}`;
    }

    function enter(tile) {
      if (!tile.classList.contains("block") || into.includes(tile)) return;
      into.push(tile);
      draw();
      back.focus(); // what had the focus is not there any more
    }

    function leave() {
      const left = into.pop();
      if (!left) return;
      draw();
      left.focus();
    }

    // The blocks that a tile lies in, from the outermost; a click goes one step down.
    function around(tile) {
      const own = box(tile, `data-${measure}`);
      return tiles.filter((one) => {
        const other = one.classList.contains("block") && box(one, `data-${measure}`);
        return other && !into.includes(one) && own[0] >= other[0] - 0.06 && own[1] >= other[1] - 0.06 &&
          own[0] + own[2] <= other[0] + other[2] + 0.06 && own[1] + own[3] <= other[1] + other[3] + 0.06;
      });
    }

    picture.addEventListener("click", (event) => {
      const tile = event.target.closest("g");
      if (tile) for (const one of around(tile).slice(0, 1)) enter(one);
    });
    picture.addEventListener("keydown", (event) => {
      const tile = event.target.closest("g");
      if (tile && (event.key === "Enter" || event.key === " ")) {
        event.preventDefault();
        enter(tile);
      }
    });
    figure.addEventListener("keydown", (event) => {
      if (event.key === "Escape") leave();
    });
    for (const button of buttons) {
      button.addEventListener("click", () => {
        const { key, value } = button.dataset;
        if (key === "back") return leave();
        for (const one of buttons) if (one.dataset.key === key) one.setAttribute("aria-pressed", String(one === button));
        if (key === "measure") measure = value;
        if (key === "colour") {
          picture.classList.toggle("by-zeros", value === "zeros");
          picture.classList.toggle("by-change", value === "change");
        }
        return draw();
      });
    }
    addEventListener("resize", draw);
    draw();
  }
})();
