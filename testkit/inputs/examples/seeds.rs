//! Writes the sound inputs of `fuzz/corpus`: `cargo run -p weir-inputs --example seeds`.
#![allow(clippy::disallowed_methods, reason = "a developer's tool: it writes the checkout it runs in")]

fn main() -> std::io::Result<()> {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    for (target, name, bytes) in weir_inputs::seeds() {
        let dir = corpus.join(target);
        std::fs::create_dir_all(&dir)?;
        std::fs::write(dir.join(name), bytes)?;
    }
    Ok(())
}
