"""`edgeprune bench --wasm`: times in WebAssembly, by LiteRT.js under node."""
