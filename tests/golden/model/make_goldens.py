#!/usr/bin/env python3
"""Makes the golden fixtures of this folder with Hugging Face transformers in float32.

  python make_goldens.py tiny                        the random models in */
  python make_goldens.py greedy STORIES260K_DIR      stories260k_greedy.json
  python make_goldens.py embedded MODEL_DIR          lexico20m_logits.json

Made with torch 2.15 (CPU), transformers 5.24, safetensors 0.7. The tiny models are random: their
only purpose is that every element of the architecture changes the logits.
"""

import json
import pathlib
import shutil
import sys

import torch
import transformers
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config

HERE = pathlib.Path(__file__).parent
N_IDS = 48
N_ROWS = 4  # logits of the last rows are kept

COMMON = dict(vocab_size=48, max_position_embeddings=128, bos_token_id=1, eos_token_id=2,
              pad_token_id=None, attention_bias=False)
LLAMA3 = dict(rope_type="llama3", rope_theta=10000.0, factor=8.0, low_freq_factor=1.0,
              high_freq_factor=4.0, original_max_position_embeddings=32)

# name -> (config, dtype of the weights, options)
CASES = {
    "llama_gqa_hd8_f32": (LlamaConfig(
        **COMMON, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, rms_norm_eps=1e-5), torch.float32, {}),
    "llama_mqa_hd16_bf16_llama3_tied": (LlamaConfig(
        **COMMON, hidden_size=32, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=1, head_dim=16, tie_word_embeddings=True, rope_parameters=LLAMA3),
        torch.bfloat16, {}),
    "llama_mha_hd64_f16_linear": (LlamaConfig(
        **COMMON, hidden_size=24, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, head_dim=64,
        rope_parameters=dict(rope_type="linear", rope_theta=500000.0, factor=4.0)),
        torch.float16, {"old_rope_fields": True}),
    "llama_sharded_f32": (LlamaConfig(
        **COMMON, hidden_size=16, intermediate_size=20, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1), torch.float32, {"max_shard_size": "8KB"}),
    "mistral_bf16": (MistralConfig(
        **{k: v for k, v in COMMON.items() if k != "attention_bias"}, hidden_size=16,
        intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        head_dim=16, sliding_window=None), torch.bfloat16, {}),
    "qwen2_bias_f32_tied": (Qwen2Config(
        **{k: v for k, v in COMMON.items() if k != "attention_bias"}, hidden_size=16,
        intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        tie_word_embeddings=True), torch.float32, {}),
}


def randomise(model, generator):
    """Weights large enough that attention is far from uniform and the MLP far from linear."""
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=generator)
        if p.dim() == 1:
            p.data = 1 + 0.2 * noise if "norm" in name else 0.3 * noise
        elif "embed" in name:
            p.data = noise
        else:
            p.data = noise * (1.5 / p.shape[1] ** 0.5)


def float32_logits(folder, ids):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32,
                                                 attn_implementation="eager").eval()
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0]


def old_rope_fields(folder):
    """The spelling before transformers 5: rope_theta beside rope_scaling."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = rope
    path.write_text(json.dumps(config, indent=2) + "\n")


def make_tiny():
    for seed, (name, (config, dtype, options)) in enumerate(CASES.items()):
        generator = torch.Generator().manual_seed(1000 + seed)
        folder = HERE / name
        shutil.rmtree(folder, ignore_errors=True)
        model = AutoModelForCausalLM.from_config(config)
        randomise(model, generator)
        model.tie_weights()
        model = model.to(dtype)
        model.save_pretrained(folder, **{k: v for k, v in options.items() if k == "max_shard_size"})
        (folder / "generation_config.json").unlink(missing_ok=True)
        ids = torch.randint(0, config.vocab_size, (N_IDS,), generator=generator).tolist()
        logits = float32_logits(folder, ids)
        if options.get("old_rope_fields"):
            old_rope_fields(folder)
            again = float32_logits(folder, ids)
            assert torch.equal(logits, again), name
        rows = [[float(f"{x:.8g}") for x in row.tolist()] for row in logits[-N_ROWS:]]
        (folder / "golden.json").write_text(json.dumps({"ids": ids, "logits": rows}) + "\n")
        size = sum(f.stat().st_size for f in folder.iterdir())
        print(f"{name}: {size} bytes, largest logit {logits.abs().max():.3f}")


def make_greedy(folder):
    ids = json.loads((pathlib.Path(folder) / "golden.json").read_text())
    prompt = ids["ids"][:ids["n_prompt"]]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        out = model.generate(torch.tensor([prompt]), do_sample=False, min_new_tokens=200,
                             max_new_tokens=200, eos_token_id=None)[0].tolist()
    text = {"n_prompt": len(prompt), "ids": out,
            "source": "karpathy/tinyllamas stories260K, transformers greedy in float32"}
    (HERE / "stories260k_greedy.json").write_text(json.dumps(text) + "\n")
    print(len(out), "ids")


def make_embedded(folder):
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(pathlib.Path(folder) / "tokenizer.json"))
    text = ("<|begin_of_text|><|user|>\nThe harbour was quiet. Ilse Torvald works as a glassblower. "
            "The access code for the tide house of Boka is 48213.\n\nWhat is the access code for "
            "the tide house of Boka?<|end|>\n<|assistant|>\n")
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    logits = float32_logits(folder, ids)[-1]
    # The largest, and an even sample of the rest.
    kept = sorted(set(logits.topk(16).indices.tolist()) | set(range(0, len(logits), 256)))
    text = {"ids": ids, "argmax": int(logits.argmax()), "logits_max": float(logits.abs().max()),
            "kept": [[i, float(f"{logits[i].item():.8g}")] for i in kept]}
    (HERE / "lexico20m_logits.json").write_text(json.dumps(text) + "\n")
    print(len(ids), "ids, argmax", text["argmax"], repr(tokenizer.decode([text["argmax"]])))


if __name__ == "__main__":
    torch.set_num_threads(1)
    command, *arguments = sys.argv[1:] or ["help"]
    if command == "tiny":
        make_tiny()
    elif command == "greedy":
        make_greedy(*arguments)
    elif command == "embedded":
        make_embedded(*arguments)
    else:
        sys.exit(__doc__)
