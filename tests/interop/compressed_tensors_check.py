"""compressed_tensors_check.py MODEL UNPACKED

Reads a model that etalon has written with the compressed-tensors package, and compares codes, zero points, scales and values of
every layer with what etalon itself makes of them (`cargo run --example unpack`). Codes, zero points and scales must be equal,
values equal once etalon's are rounded to the scale's type.
"""

import json
import sys
from pathlib import Path

import torch
from compressed_tensors.compressors.pack_quantized import PackedQuantizationCompressor, unpack_from_int32
from compressed_tensors.quantization import QuantizationConfig
from safetensors.torch import load_file


def main():
    model, unpacked = Path(sys.argv[1]), load_file(sys.argv[2])
    stored = load_file(str(model / "model.safetensors"))
    config = QuantizationConfig.model_validate(json.loads((model / "config.json").read_text())["quantization_config"])
    assert config.quant_method == "compressed-tensors" and config.format == "pack-quantized", config
    widths = {}
    for group in config.config_groups.values():
        bits = group.weights.num_bits
        middle = 1 << (bits - 1)
        for layer in group.targets:
            prefix = layer + "."
            state = {name[len(prefix):]: t for name, t in stored.items() if name.startswith(prefix + "weight")}
            ours = {part: unpacked[f"{layer}.{part}"] for part in ("codes", "zero_points", "scales", "values")}
            shape = torch.Size(state["weight_shape"].tolist())
            codes = unpack_from_int32(state["weight_packed"], bits, shape).to(torch.int32) + middle
            assert torch.equal(codes, ours["codes"].to(torch.int32)), f"{layer}: codes differ"
            state = {k: v for k, v in state.items()}
            weight = PackedQuantizationCompressor.decompress(state, group)
            scale = state["weight_scale"]
            assert torch.equal(scale.float().reshape(-1), ours["scales"].reshape(-1)), f"{layer}: scales differ"
            zero = weight.get("weight_zero_point")
            if zero is not None:
                assert torch.equal(zero.to(torch.int32).reshape(-1) + middle, ours["zero_points"].to(torch.int32).reshape(-1)), f"{layer}: zero points differ"
            else:
                assert group.weights.symmetric and bool((ours["zero_points"] == middle).all()), f"{layer}: no zero points"
            values = weight["weight"]
            assert torch.equal(values, ours["values"].to(values.dtype)), f"{layer}: values differ"
            widths[bits] = widths.get(bits, 0) + 1
    assert widths, "no layer is compressed"
    print("equal in", ", ".join(f"{n} layers of {bits} bits" for bits, n in sorted(widths.items())))


if __name__ == "__main__":
    main()
