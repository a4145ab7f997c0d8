// What node runs: LiteRT in WebAssembly, which computes and times .tflite files.
//
//     node runner.cjs MODULE
//
// One JSON object on the first line of stdin is the job; JSON lines on stdout are the replies, as those of
// edgeprune/runtime/worker.py: any number of {"progress": [done, total]}, then {"result": {...}} or {"error": "..."}.
//     {"paths": [..], "inputs": [{name: file}, ..], "warmups", "warm_ns", "pairs", "orders", "block_ns", "most_block",
//      "process_ns", "singles", "singles_ns", "least_singles"}
// The result has the times of worker.py's job "time" and, in "outputs", what each file computed for its inputs. The
// clock is CPU time of this process: LiteRT computes on its one thread.
"use strict";
const fs = require("node:fs");
const v8 = require("node:v8");

// node 20 has relaxed SIMD behind a flag, later ones have it at once.
v8.setFlagsFromString("--experimental-wasm-relaxed-simd");
const say = (message) => fs.writeSync(1, JSON.stringify(message) + "\n");
for (const name of ["log", "info", "warn", "debug"]) console[name] = console.error; // stdout is for replies

const listed = (vector) => {
  const items = Array.from({ length: vector.size() }, (_, index) => vector.get(index));
  vector.delete();
  return items;
};

/** A file, compiled, its inputs set. */
async function ready(litert, environment, path, inputs) {
  const content = fs.readFileSync(path);
  const place = litert._malloc(content.length);
  litert.HEAPU8.set(content, place);
  const model = litert.loadModel(environment, place, content.length);
  const compiled = await litert.compileModel(environment, model, {
    environment: { liteRtEnvironment: environment, options: { webGpuDevice: null } },
    accelerator: "wasm", cpuOptions: { numThreads: 1 }, gpuOptions: {}, webNNOptions: {},
  });
  const signature = model.getSignature(0);
  const names = listed(signature.inputNames());
  const buffers = names.map((name, index) => {
    const file = names.length === 1 ? Object.values(inputs)[0] : inputs[name];
    if (file === undefined) throw new Error(`no input is called ${name}`);
    return filled(litert, environment, model.getInputTensorType(0, index), fs.readFileSync(file), name);
  });
  return { run: () => compiled.run(0, buffers), outputs: listed(signature.outputNames()) };
}

function filled(litert, environment, type, content, name) {
  if (type.bytes() !== content.length) throw new Error(`input ${name} takes ${type.bytes()} bytes`);
  const kind = litert.LiteRtTensorBufferType.HOST_MEMORY;
  const buffer = litert.LiteRtTensorBuffer.createManaged(environment, kind, type, content.length);
  litert.HEAPU8.set(content, buffer.lock(litert.LiteRtTensorBufferLockMode.WRITE));
  buffer.unlock();
  return buffer;
}

/** What a file computes: bytes, sizes and the number of the element type of each output. */
function computed(litert, file) {
  return file.run().map((buffer, index) => {
    const type = buffer.tensorType();
    const place = buffer.lock(litert.LiteRtTensorBufferLockMode.READ);
    const bytes = Buffer.from(litert.HEAPU8.slice(place, place + buffer.packedSize())).toString("base64");
    buffer.unlock();
    const told = { name: file.outputs[index], element: type.elementType().value, bytes };
    const layout = type.layout();
    told.shape = listed(layout.dimensions());
    buffer.delete();
    return told;
  });
}

const once = (file) => { for (const buffer of file.run()) buffer.delete(); };

/** CPU and wall time of so many runs, nanoseconds. */
function timed(file, block) {
  const wall = process.hrtime.bigint(), cpu = process.cpuUsage();
  for (let count = 0; count < block; count++) once(file);
  const spent = process.cpuUsage(cpu);
  return [1000 * (spent.user + spent.system), Number(process.hrtime.bigint() - wall)];
}

function pair(files, order, block) {
  const total = files.map(() => [0, 0]);
  for (const index of [...order, ...[...order].reverse()]) {
    once(files[index]); // untimed: each block starts with its own weights in the cache, not another's
    timed(files[index], block).forEach((value, clock) => { total[index][clock] += value / (2 * block); });
  }
  return total;
}

const column = (rows, clock) => rows.map((row) => row.map((values) => values[clock]));

function times(files, job) {
  for (const file of files) {  // until the engine has compiled for good what it runs
    const end = process.hrtime.bigint() + BigInt(job.warm_ns);
    for (let count = 0; count < job.warmups || process.hrtime.bigint() < end; count++) once(file);
  }
  const single = Math.max(1, [0, 1, 2, 3, 4].map(() => timed(files[0], 1)[1]).sort((a, b) => a - b)[2]);
  const block = Math.max(1, Math.min(job.most_block, Math.round(job.block_ns / single)));
  const worth = Math.round(job.process_ns / (2 * files.length * (block + 1) * single));
  const pairs = Math.max(job.pairs, Math.min(10 * job.pairs, worth));
  const rows = [];
  for (let count = 0; count < pairs; count++) {
    rows.push(pair(files, job.orders[count % job.orders.length], block));
    say({ progress: [count + 1, pairs] });
  }
  const few = Math.min(job.singles, Math.max(job.least_singles, Math.round(job.singles_ns / (files.length * single))));
  const alone = Array.from({ length: few }, (_, call) => {
    const row = files.map(() => [0, 0]);
    files.forEach((_, turn) => {
      const index = (call + turn) % files.length;
      row[index] = timed(files[index], 1);
    });
    return row;
  });
  return {
    cpu_ns: column(rows, 0), wall_ns: column(rows, 1), block,
    single_cpu_ns: column(alone, 0), single_wall_ns: column(alone, 1),
  };
}

/** The first line of stdin, which stays open. */
function line() {
  const parts = [], part = Buffer.alloc(1 << 16);
  while (!parts.length || !parts.at(-1).includes(10)) {
    const count = fs.readSync(0, part, 0, part.length, null);
    if (!count) break;
    parts.push(Buffer.from(part.subarray(0, count)));
  }
  return Buffer.concat(parts).toString("utf8");
}

async function main() {
  const job = JSON.parse(line());
  const litert = await require(process.argv[2])({ print: console.error, printErr: console.error });
  const environment = litert.LiteRtEnvironment.create(null);
  const files = [];
  for (let index = 0; index < job.paths.length; index++) {
    try {
      files.push(await ready(litert, environment, job.paths[index], job.inputs[index]));
    } catch (error) {
      throw new Error(`${job.paths[index]}: the file was refused: ${error.message || error}`);
    }
  }
  const outputs = files.map((file) => computed(litert, file));
  say({ result: { outputs, node: process.version, ...times(files, job) } });
}

main().catch((error) => say({ error: String(error.message || error).split("\n")[0].slice(0, 400) })).finally(() => process.exit(0));
