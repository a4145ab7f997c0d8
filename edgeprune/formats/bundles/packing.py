"""What the packing of a model in an app means for its download, its install size and its start, in words.

Sources: developer.android.com, AssetManager.openFd and zipalign; Android Gradle plugin, androidResources.noCompress;
bundletool, config.proto; developer.apple.com, "Reducing your app's size" and MLModel.compileModel.
"""

from __future__ import annotations

__all__ = ["notes_of"]

_UNCOMPILED = frozenset({"mlmodel", "mlpackage"})


def notes_of(
    bundle: str, kind: str, suffix: str, raw_bytes: int, compressed_bytes: int, method: str, aligned: bool | None
) -> tuple[int | None, tuple[str, ...]]:
    """(install bytes, notes) of a model of `kind` in a bundle, both without dots (apk, ipa, aab...).

    `suffix` is the member's own, with its dot, or "". Install bytes are None where the bundle does not decide them.
    """
    if bundle == "apk" and method == "stored":
        return raw_bytes, _mapped(kind, aligned)
    if bundle == "apk":
        return raw_bytes + compressed_bytes, (_copied(suffix, raw_bytes, compressed_bytes),)
    if bundle == "ipa":
        return raw_bytes, _unpacked(kind, method)
    if bundle == "aab":
        return None, (
            "how it is packed in an .aab is not what ships: Google Play builds the APKs anew; "
            "read the .apks that bundletool makes of it",
        )
    return None, ()


def _mapped(kind: str, aligned: bool | None) -> tuple[str, ...]:
    notes = [
        "stored in the APK: installs at its raw size and can be memory-mapped in place (AssetManager.openFd); "
        "the store compresses the download itself"
    ]
    if aligned is False:
        notes.append("its data do not begin at a multiple of 4 bytes: run zipalign 4 on the APK before signing it")
    return tuple(notes) if kind not in _UNCOMPILED else (*notes, "a Core ML model, of no use on Android")


def _copied(suffix: str, raw_bytes: int, compressed_bytes: int) -> str:
    ending = suffix.removeprefix(".")
    advice = (
        f"androidResources {{ noCompress += \"{ending}\" }} (noCompress '{ending}')"
        if ending.isalnum() and ending.isascii()
        else "give it the suffix .tflite, which Android builds store"
    )
    return (
        "deflated in the APK: the file is smaller, but it cannot be memory-mapped (openFd: probably compressed); "
        f"an app that needs a file copies it out and keeps both, {compressed_bytes} + {raw_bytes} bytes; "
        f"to store it: {advice}"
    )


def _unpacked(kind: str, method: str) -> tuple[str, ...]:
    packed = "deflated in the IPA, as is usual" if method != "stored" else "stored in the IPA"
    notes = [f"{packed}: installed uncompressed at its raw size"]
    if kind in _UNCOMPILED:
        notes.append("not compiled: the device must compile it (MLModel.compileModel), which writes another copy")
    return tuple(notes)
