// npm install @litertjs/core; serve its folder wasm/ and the file beside the page
import { loadAndCompile, loadLiteRt, Tensor } from "@litertjs/core";

await loadLiteRt("./wasm/");
const model = await loadAndCompile(new URL("./my%20model.tflite", document.baseURI), { accelerator: "wasm" });

// Input 0, "a\u0022\u000a\u002a/ \u0024\u007bx\u007d \u005c(y) \u2028\u202e\u0027\u007bz\u007d# \u00e9\ud83d\ude00": uint8, 1x4x4x3; a number is (integer - 128) * 0.0078125
const data0 = new Float32Array(48); // your data, in this order
const input0 = new Tensor(Uint8Array.from(data0, (x) => Math.min(255, Math.max(0, Math.round(x / 0.0078125) + 128))), [1, 4, 4, 3]);

// Input 1, "count": int32, 1
const data1 = new Int32Array(1); // your data, in this order
const input1 = new Tensor(data1, [1]);

const outputs = await model.run([input0, input1]);

// Output 0, "scores": float32, 1x10
const output0 = await outputs[0].data();

// Output 1, "classes": uint8, 1x5; a number is (integer - 3) * 0.1
const output1 = Float32Array.from(await outputs[1].data(), (x) => (x - 3) * 0.1);

const results = new Map([["scores", output0], ["classes", output1]]);
for (const tensor of [input0, input1, ...outputs]) tensor.delete();
