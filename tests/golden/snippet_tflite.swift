// Podfile: pod "TensorFlowLiteSwift"; the file stands in the app target
import Foundation
import TensorFlowLite

func runModel() throws -> [String: Any] {
    guard let path = Bundle.main.path(forResource: "my model", ofType: "tflite") else {
        throw CocoaError(.fileNoSuchFile)
    }
    let interpreter = try Interpreter(modelPath: path)
    try interpreter.allocateTensors()

    // Input 0, "a\u{22}\u{a}\u{2a}/ \u{24}\u{7b}x\u{7d} \u{5c}(y) \u{2028}\u{202e}\u{27}\u{7b}z\u{7d}# \u{e9}\u{1f600}": uint8, 1x4x4x3; a number is (integer - 128) * 0.0078125
    let input0 = [Float](repeating: 0, count: 48)  // your data, in this order
    let integers0 = input0.map { UInt8(clamping: Int(($0 / 0.0078125).rounded()) + 128) }
    try interpreter.copy(integers0.withUnsafeBytes { Data($0) }, toInputAt: 0)

    // Input 1, "count": int32, 1
    let input1 = [Int32](repeating: 0, count: 1)  // your data, in this order
    try interpreter.copy(input1.withUnsafeBytes { Data($0) }, toInputAt: 1)

    try interpreter.invoke()

    // Output 0, "scores": float32, 1x10
    let data0 = try interpreter.output(at: 0).data
    let output0 = data0.withUnsafeBytes { [Float]($0.bindMemory(to: Float.self)) }

    // Output 1, "classes": uint8, 1x5; a number is (integer - 3) * 0.1
    let data1 = try interpreter.output(at: 1).data
    let output1 = data1.withUnsafeBytes { [UInt8]($0.bindMemory(to: UInt8.self)) }.map { (Float($0) - 3) * 0.1 }

    return ["scores": output0, "classes": output1]
}
