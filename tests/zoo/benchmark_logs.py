"""What LiteRT's benchmark_model prints, shortened."""

from __future__ import annotations

NEW = """INFO: STARTING!
INFO: Log parameter values verbosely: [0]
INFO: Graph: [/data/local/tmp/float32.tflite]
INFO: Loaded model /data/local/tmp/float32.tflite
INFO: count=50 first=14123 curr=14600 min=14000 max=15800 avg=14575.2 std=99
INFO: Inference timings in us: Init: 5685, First inference: 18535, Warmup (avg): 14462.3, Inference (avg): 14575.2
INFO: Memory footprint delta from the start of the tool (MB): init=1.2 overall=3.4
"""

LITERT_2 = """INFO: STARTING!
INFO: Log parameter values verbosely: [0]
INFO: Num threads: [4]
INFO: [litert/tools/benchmark_litert_model.cc:137] Loading model from: /data/local/tmp/float32.tflite
INFO: [litert/runtime/accelerators/auto_registration.cc:109] CPU accelerator registered.
INFO: Created TensorFlow Lite XNNPACK delegate for CPU.
INFO: count=526 first=2125 curr=969 min=910 max=2125 avg=949.861 std=68 p5=915 median=939 p95=990
INFO: count=1054 first=1015 curr=942 min=910 max=1102 avg=947.132 std=23 p5=915 median=942 p95=991
INFO: [./litert/tools/benchmark_litert_model.h:72]
========== BENCHMARK RESULTS ==========
INFO: [./litert/tools/benchmark_litert_model.h:77] Warmup (avg):         0.96 ms (526 runs)
INFO: [./litert/tools/benchmark_litert_model.h:79] Inference (avg):      0.95 ms (1054 runs)
INFO: [./litert/tools/benchmark_litert_model.h:83] Inference (min):      0.91 ms
"""

GPU = "INFO: Use gpu: [1]\nINFO: Explicitly applied GPU delegate, and the model graph will be completely executed.\n"
