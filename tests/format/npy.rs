use etalon::format::{Npy, NpyData};

use super::{TempFolder, array, fixture};

#[test]
fn numpy_files_are_read() {
    let ids = array("tiny/opt-preln/input_ids.npy");
    assert_eq!(ids.shape, [2, 24]);
    assert_eq!(ids.to_i64().unwrap().len(), 48);
    let hidden = array("smollm2/prompt64_hidden_states_0_1_15_30.npy");
    assert_eq!(hidden.shape, [4, 64, 576]);
    assert_eq!(hidden.as_f32().unwrap().len(), 4 * 64 * 576);
    assert!(matches!(array("smollm2/wiki_test_2048_token_ids.npy").data, NpyData::I32(_)));
}

#[test]
fn written_files_are_what_numpy_writes() {
    let folder = TempFolder::new("npy");
    for name in ["tiny/opt-preln/input_ids.npy", "minilm/pooler_output.npy", "smollm2/wiki_test_2048_token_ids.npy"] {
        let path = folder.0.join("copy.npy");
        array(name).write(&path).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(fixture(name)).unwrap(), "{name}");
    }
    assert_eq!(std::fs::read_dir(&folder.0).unwrap().count(), 1, "a temporary file was left behind");
    assert!(Npy::f32(&[2, 2], vec![0.0; 3]).write(&folder.0.join("bad.npy")).is_err());
}

#[test]
fn broken_files_are_refused() {
    let good = std::fs::read(fixture("tiny/opt-preln/input_ids.npy")).unwrap();
    for len in 0..good.len() {
        assert!(Npy::parse("x.npy", &good[..len]).is_err(), "cut to {len}");
    }
    for at in 0..128 {
        for flip in [1, 0x80, 0xff] {
            let mut bad = good.clone();
            bad[at] ^= flip;
            let _ = Npy::parse("x.npy", &bad);
        }
    }
}
