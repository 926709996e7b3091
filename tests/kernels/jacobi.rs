// Rotations, norms, completion and order are run by decompositions, each dispatch judged: see `tests/linalg.rs`.
