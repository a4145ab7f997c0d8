// The model stands in the app target, where Xcode compiles it to a .mlmodelc
import CoreML
import CoreVideo

func runModel() throws -> [String: Any] {
    let name = "My Model"
    guard let url = Bundle.main.url(forResource: name, withExtension: "mlmodelc") else {
        throw CocoaError(.fileNoSuchFile)
    }
    let model = try MLModel(contentsOf: url)

    // Input "a\u{22}\u{a}\u{2a}/ \u{24}\u{7b}x\u{7d} \u{5c}(y) \u{2028}\u{202e}\u{27}\u{7b}z\u{7d}# \u{e9}\u{1f600}": image RGB, 64x32 (width x height)
    let picture0 = URL(fileURLWithPath: "photo.jpg")  // your picture
    let input0 = try MLFeatureValue(
        imageAt: picture0, pixelsWide: 64, pixelsHigh: 32,
        pixelFormatType: kCVPixelFormatType_32BGRA, options: nil)

    // Input "array": array of float32, 1x3
    let array1 = try MLMultiArray(shape: [1, 3], dataType: .float32)  // your data
    let input1 = MLFeatureValue(multiArray: array1)

    let inputs = try MLDictionaryFeatureProvider(dictionary: ["a\u{22}\u{a}\u{2a}/ \u{24}\u{7b}x\u{7d} \u{5c}(y) \u{2028}\u{202e}\u{27}\u{7b}z\u{7d}# \u{e9}\u{1f600}": input0, "array": input1])
    let outputs = try model.prediction(from: inputs)

    // Output "logits": array of float16, 1x4
    let output0 = outputs.featureValue(for: "logits")?.multiArrayValue

    // Output "classLabel": string
    let output1 = outputs.featureValue(for: "classLabel")?.stringValue

    // Output "probabilities": dictionary
    let output2 = outputs.featureValue(for: "probabilities")?.dictionaryValue

    return ["logits": output0 as Any, "classLabel": output1 as Any, "probabilities": output2 as Any]
}
