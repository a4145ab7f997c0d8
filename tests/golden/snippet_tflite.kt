// build.gradle.kts: implementation("com.google.ai.edge.litert:litert:1.4.2"); file: src/main/assets
import android.content.Context
import java.io.FileInputStream
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.channels.FileChannel
import kotlin.math.roundToInt
import org.tensorflow.lite.Interpreter

fun runModel(context: Context): Map<String, Any> {
    val asset = context.assets.openFd("my model.tflite")
    val model = FileInputStream(asset.fileDescriptor).channel
        .map(FileChannel.MapMode.READ_ONLY, asset.startOffset, asset.declaredLength)

    // Input 0, "a\u0022\u000a\u002a/ \u0024\u007bx\u007d \u005c(y) \u2028\u202e\u0027\u007bz\u007d# \u00e9\ud83d\ude00": uint8, 1x4x4x3; a number is (integer - 128) * 0.0078125
    val input0 = FloatArray(48) // your data, in this order
    val in0 = ByteBuffer.allocateDirect(48).order(ByteOrder.nativeOrder())
    input0.forEach { in0.put(((it / 0.0078125f).roundToInt() + 128).coerceIn(0, 255).toByte()) }
    in0.rewind()

    // Input 1, "count": int32, 1
    val input1 = IntArray(1) // your data, in this order
    val in1 = ByteBuffer.allocateDirect(4).order(ByteOrder.nativeOrder())
    input1.forEach { in1.putInt(it) }
    in1.rewind()

    val out0 = ByteBuffer.allocateDirect(40).order(ByteOrder.nativeOrder())
    val out1 = ByteBuffer.allocateDirect(5).order(ByteOrder.nativeOrder())
    Interpreter(model).use { it.runForMultipleInputsOutputs(arrayOf<Any>(in0, in1), mapOf<Int, Any>(0 to out0, 1 to out1)) }

    // Output 0, "scores": float32, 1x10
    out0.rewind()
    val output0 = FloatArray(10) { out0.getFloat() }
    // Output 1, "classes": uint8, 1x5; a number is (integer - 3) * 0.1
    out1.rewind()
    val output1 = FloatArray(5) { ((out1.get().toInt() and 0xFF) - 3) * 0.1f }
    return mapOf("scores" to output0, "classes" to output1)
}
