"""Write supported.tflite: the metadata of another's hand, to be read and kept here.

Needs tflite-support 0.4.4, whose pins (protobuf below 4) exclude TensorFlow: an environment of its own.

    python -m venv other && other/bin/pip install tflite-support==0.4.4 "numpy<2"
    other/bin/python tests/files/make_supported.py

The model is open_height.tflite (four output channels, which get labels). In it: normalisation of two channels, labels,
and a calibration of scores, which edgeprune writes for nobody and must keep.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from tflite_support.metadata_writers import image_classifier, metadata_info

FOLDER = Path(__file__).parent

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        labels, scores = Path(scratch) / "names.txt", Path(scratch) / "scores.txt"
        labels.write_text("ant\nbee\ncat\ndog\n")
        scores.write_text("0.9,1,0\n" * 4)
        calibration = metadata_info.ScoreCalibrationMd(
            metadata_info._metadata_fb.ScoreTransformationType.LOG, 0.25, str(scores)
        )
        writer = image_classifier.MetadataWriter.create_for_inference(
            bytearray((FOLDER / "open_height.tflite").read_bytes()), [1.5, 2.5], [4.0, 8.0], [str(labels)], calibration
        )
        (FOLDER / "supported.tflite").write_bytes(writer.populate())
