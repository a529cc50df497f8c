"""Hugging Face transformers with SDPA on a GPU, beside lexico-bench-engine: the same folder, dense bf16 cache.

Prefills --tokens random ids in chunks, copies the cache for --batches sequences, decodes --new tokens greedily and
prints prefill tokens/s, milliseconds a step and tokens/s. Batch 0: as many as fit, found from what the memory allows by
size, one fewer each time. Reports what ran out, and goes on.

  python tools/eval/gpu_transformers_peer.py --model DIR --tokens 32768 --batches 1,8
"""

import argparse
import gc
import time

import torch
from transformers import AutoModelForCausalLM, DynamicCache

CHUNK = 2048


def synchronized() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()


@torch.inference_mode()
def prefill(model, ids: torch.Tensor) -> tuple[DynamicCache, float]:
    cache = DynamicCache(config=model.config)
    begin = synchronized()
    for first in range(0, ids.shape[1], CHUNK):
        model(ids[:, first : first + CHUNK], past_key_values=cache, logits_to_keep=1)
    return cache, synchronized() - begin


@torch.inference_mode()
def decode(model, prompt: DynamicCache, batch: int, n_new: int) -> float:
    """Milliseconds a step, the median."""
    cache = DynamicCache(config=model.config)
    for i, layer in enumerate(prompt.layers):
        cache.update(layer.keys.repeat(batch, 1, 1, 1), layer.values.repeat(batch, 1, 1, 1), i)
    token = torch.zeros(batch, 1, dtype=torch.long, device="cuda")
    times = []
    for _ in range(n_new):
        begin = synchronized()
        token = model(token, past_key_values=cache, logits_to_keep=1).logits[:, -1].argmax(-1, keepdim=True)
        times.append(synchronized() - begin)
    times.sort()
    return times[len(times) // 2] * 1e3


def release() -> None:
    gc.collect()
    torch.cuda.empty_cache()


def largest_batch(model, n_tokens: int) -> int:
    config = model.config
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    session = 2 * 2 * config.num_hidden_layers * config.num_key_value_heads * head_dim * n_tokens
    return max(1, torch.cuda.mem_get_info()[0] // session)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="model folder")
    parser.add_argument("--tokens", type=int, default=32768)
    parser.add_argument("--batches", default="1,0", help="0: as many as fit")
    parser.add_argument("--new", type=int, default=24)
    args = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.bfloat16, attn_implementation="sdpa").cuda().eval()
    ids = torch.randint(0, model.config.vocab_size, (1, args.tokens), device="cuda")
    prefill(model, ids[:, :CHUNK])
    prompt, seconds = prefill(model, ids)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}: prefill of {args.tokens}: {args.tokens / seconds:.0f} tokens/s", flush=True)
    for wanted in map(int, args.batches.split(",")):
        release()
        batch = wanted or largest_batch(model, args.tokens)
        while batch > 0:
            release()
            try:
                ms = decode(model, prompt, batch, args.new)
                print(f"batch {batch:3d}: {ms:.2f} ms a step, {batch / ms * 1e3:.0f} tokens/s", flush=True)
                break
            except torch.OutOfMemoryError:
                print(f"batch {batch:3d}: out of memory", flush=True)
                batch = batch - 1 if not wanted else 0


if __name__ == "__main__":
    main()
