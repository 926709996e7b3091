use std::path::Path;
use std::sync::Arc;

use etalon::Error;
use etalon::format::{Bytes, Checkpoint, Encoding, HostMatrix, RopePairing};
use serde_json::json;

use super::{TempFolder, fixture, floats, model, tiny_llama};

/// A safetensors file of f32 tensors.
fn safetensors(tensors: &[(&str, &[usize])]) -> Vec<u8> {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, shape) in tensors {
        let start = data.len();
        data.extend(floats(shape.iter().product()));
        header.insert((*name).into(), json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]}));
    }
    let header = serde_json::to_vec(&header).unwrap();
    [&(header.len() as u64).to_le_bytes(), header.as_slice(), &data].concat()
}

fn read(folder: &str, file: &str) -> Vec<u8> {
    std::fs::read(fixture(&format!("tiny/{folder}/{file}"))).unwrap()
}

#[test]
fn the_tiny_models_open() {
    for (folder, matrix, rows, cols, vector) in [
        ("llama-gqa", "model.layers.1.self_attn.k_proj.weight", 32, 64, "model.norm.weight"),
        ("opt-preln", "model.decoder.layers.0.fc1.weight", 256, 64, "model.decoder.final_layer_norm.bias"),
        ("opt-350m-like", "model.decoder.project_in.weight", 64, 32, "model.decoder.layers.1.fc2.bias"),
        ("bert-mlm", "encoder.layer.0.intermediate.dense.weight", 256, 64, "cls.predictions.transform.dense.bias"),
        ("bert-seqcls", "classifier.weight", 3, 64, "pooler.dense.bias"),
    ] {
        let checkpoint = Checkpoint::open(&fixture(&format!("tiny/{folder}"))).unwrap();
        assert_eq!(checkpoint.rope, RopePairing::Half);
        assert!(matches!(checkpoint.matrix(matrix, rows, cols).unwrap(), HostMatrix::F32(v) if v.len() == rows * cols));
        assert_eq!(checkpoint.vector(vector, 64).unwrap().len(), 64);
        let message = checkpoint.matrix(matrix, cols, rows).err().map(|e| e.to_string());
        assert!(rows == cols || message.is_some_and(|m| m.contains(matrix)));
        assert!(checkpoint.tokenizer().unwrap_err().to_string().contains("tokenizer"));
        // The file itself may be named, too.
        let file = Checkpoint::open(&fixture(&format!("tiny/{folder}/model.safetensors"))).unwrap();
        assert_eq!(file.tensors().count(), checkpoint.tensors().count());
    }
}

#[test]
fn names_have_one_form() {
    for (folder, stored, expected) in [
        ("llama-gqa", "layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight"),
        ("llama-gqa", "lm_head.weight", "lm_head.weight"),
        ("opt-preln", "decoder.layers.0.fc1.weight", "model.decoder.layers.0.fc1.weight"),
        ("opt-preln", "layers.0.fc1.weight", "model.decoder.layers.0.fc1.weight"),
        ("bert-mlm", "bert.embeddings.LayerNorm.gamma", "embeddings.LayerNorm.weight"),
        ("bert-mlm", "pooler.dense.weight", "pooler.dense.weight"),
    ] {
        let source = Arc::new(Bytes::new("model.safetensors", safetensors(&[(stored, &[2, 4])])));
        let checkpoint = Checkpoint::from_safetensors(&read(folder, "config.json"), None, None, vec![source]).unwrap();
        assert!(checkpoint.has(expected), "{stored}");
    }
    let twice = Arc::new(Bytes::new("model.safetensors", safetensors(&[("norm.weight", &[4]), ("model.norm.weight", &[4])])));
    let error = Checkpoint::from_safetensors(&read("llama-gqa", "config.json"), None, None, vec![twice]).unwrap_err();
    assert!(error.to_string().contains("two tensors"), "{error}");
}

#[test]
fn a_missing_tensor_is_named_with_its_neighbours() {
    let checkpoint = Checkpoint::open(&fixture("tiny/llama-gqa")).unwrap();
    let error = checkpoint.vector("model.layers.7.input_layernorm.weight", 64).unwrap_err();
    assert!(matches!(&error, Error::MissingTensor { tensor, .. } if tensor == "model.layers.7.input_layernorm.weight"));
    assert!(error.to_string().contains("model.layers.0.input_layernorm.weight"), "{error}");
}

#[test]
fn shards_are_joined_and_checked() {
    let folder = TempFolder::new("shards");
    folder.write("config.json", &read("llama-gqa", "config.json"));
    folder.write("a.safetensors", &safetensors(&[("model.norm.weight", &[64])]));
    folder.write("b.safetensors", &safetensors(&[("lm_head.weight", &[512, 64])]));
    let index = |map: serde_json::Value| folder.write("model.safetensors.index.json", json!({"weight_map": map}).to_string().as_bytes());
    index(json!({"model.norm.weight": "a.safetensors", "lm_head.weight": "b.safetensors"}));
    let checkpoint = Checkpoint::open(&folder.0).unwrap();
    assert_eq!(checkpoint.vector("model.norm.weight", 64).unwrap().len(), 64);
    assert!(checkpoint.matrix("lm_head.weight", 512, 64).is_ok());
    for (map, word) in [
        (json!({"lm_head.weight": "c.safetensors"}), "c.safetensors"),
        (json!({"lm_head.weight": "a.safetensors"}), "lm_head.weight"),
        (json!({"lm_head.weight": "../b.safetensors"}), "../b.safetensors"),
        (json!({"lm_head.weight": 7}), "lm_head.weight"),
        (json!({}), "weight_map"),
    ] {
        index(map);
        let message = Checkpoint::open(&folder.0).unwrap_err().to_string();
        assert!(message.contains(word), "{word}: {message}");
    }
}

#[test]
fn folders_without_a_model_say_what_is_missing() {
    let folder = TempFolder::new("folders");
    let message = |path: &Path| Checkpoint::open(path).unwrap_err().to_string();
    assert!(message(&folder.0).contains("config.json"));
    folder.write("one.gguf", &tiny_llama().build());
    assert!(Checkpoint::open(&folder.0).is_ok());
    folder.write("two.gguf", b"");
    assert!(message(&folder.0).contains("several"));
    folder.write("config.json", &read("llama-gqa", "config.json"));
    assert!(message(&folder.0).contains(".safetensors"));
    assert!(message(&folder.0.join("nowhere")).contains("nowhere"));
    assert!(message(&folder.0.join("config.json")).contains("neither"));
}

#[test]
fn gguf_tensors_have_hugging_face_names() {
    let checkpoint = Checkpoint::from_gguf(Arc::new(Bytes::new("tiny.gguf", tiny_llama().build()))).unwrap();
    assert_eq!(checkpoint.rope, RopePairing::Interleaved);
    assert!(matches!(checkpoint.matrix("model.embed_tokens.weight", 8, 32).unwrap(), HostMatrix::Packed(p) if p.format.bits == 4));
    assert!(matches!(checkpoint.matrix("model.layers.0.self_attn.v_proj.weight", 16, 32).unwrap(), HostMatrix::F16(_)));
    assert!(matches!(checkpoint.matrix("model.layers.0.mlp.gate_proj.weight", 256, 32).unwrap(), HostMatrix::Bf16(_)));
    assert_eq!(checkpoint.vector("model.norm.weight", 32).unwrap()[..2], [-0.5, -0.375]);
    assert!(checkpoint.chat_template().is_some());
    let other = tiny_llama();
    let bytes = other.build();
    let at = bytes.windows(5).position(|w| w == b"llama").unwrap();
    let mut bytes = bytes;
    bytes[at..at + 5].copy_from_slice(b"qwen2");
    assert!(Checkpoint::from_gguf(Arc::new(Bytes::new("x.gguf", bytes))).unwrap_err().to_string().contains("qwen2"));
}

#[test]
fn numbers_that_are_none_are_refused() {
    let nan = f32::NAN.to_le_bytes().repeat(32);
    let mut scale = super::blocks(34, &[0], 1);
    scale[..2].copy_from_slice(&0x7e00u16.to_le_bytes());
    for (name, dims, kind, data) in [
        ("rope_freqs.weight", &[32u64][..], 0, nan),
        ("blk.1.ffn_up.weight", &[32, 1], 8, scale),
        ("blk.1.ffn_up.weight", &[4, 1], 1, vec![0xff; 8]),
    ] {
        let bytes = tiny_llama().tensor(name, dims, kind, data).build();
        let checkpoint = Checkpoint::from_gguf(Arc::new(Bytes::new("tiny.gguf", bytes))).unwrap();
        let error = match dims {
            [len] => checkpoint.vector("rope_freqs.weight", *len as usize).unwrap_err(),
            _ => checkpoint.matrix("model.layers.1.mlp.up_proj.weight", 1, dims[0] as usize).unwrap_err(),
        };
        assert!(error.to_string().contains("NaN") && error.to_string().contains("weight"), "{error}");
    }
}

#[test]
fn smollm2_loads() {
    let Some(path) = model("smollm2/SmolLM2-135M-Instruct.Q4_1.gguf") else { return };
    let checkpoint = Checkpoint::open(&path).unwrap();
    let (mut file, mut device) = (0, 0);
    for entry in checkpoint.tensors() {
        match entry.shape[..] {
            [rows, cols] => match checkpoint.matrix(&entry.name, rows, cols).unwrap() {
                HostMatrix::Packed(packed) => {
                    file += entry.file_bytes();
                    device += packed.bytes() as u64;
                }
                _ => panic!("{} is not quantised", entry.name),
            },
            _ => assert_eq!(entry.encoding, Encoding::F32),
        }
    }
    assert!(device as f64 <= 1.05 * file as f64, "{device} bytes for {file}");
}
