"""Causal attention of PyTorch on the CPU, for comparison with prefill_attention.

Same shapes as kernels/bench/dense_attention_bench.cc: 8 query heads, 2 KV heads, head_dim 128,
float32, `queries` rows after `first` keys. Prints the median time and GFLOP/s of
scaled_dot_product_attention, counting 4 * head_dim FLOP per (query head, visible key).

  python kernels/bench/attention_peer.py --threads 2
"""

import argparse
import statistics
import time

import torch


def measure(queries: int, first: int, seconds: float) -> None:
    heads, kv_heads, head_dim = 8, 2, 128
    keys = first + queries
    q = torch.randn(1, heads, queries, head_dim)
    # Keys and values are repeated before the clock starts: the kernel itself has no such cost.
    k = torch.randn(1, kv_heads, keys, head_dim).repeat_interleave(heads // kv_heads, dim=1)
    v = torch.randn(1, kv_heads, keys, head_dim).repeat_interleave(heads // kv_heads, dim=1)
    # With no keys before the chunk PyTorch skips the masked half itself; otherwise it takes a mask.
    causal = first == 0
    mask = None if causal else torch.ones(queries, keys, dtype=torch.bool).tril(first)
    times = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
        times.append(time.perf_counter() - start)
    median = statistics.median(times[1:])
    visible = queries * first + queries * (queries + 1) / 2
    flops = 4 * head_dim * heads * visible
    print(f"queries {queries} after {first} keys: {median * 1e6:.0f} us, "
          f"{flops / median / 1e9:.1f} GFLOP/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=1.0, help="per shape")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"torch {torch.__version__}, {args.threads} threads, float32")
    for queries, first in ((256, 0), (256, 3840), (512, 7680), (512, 15872), (2048, 0)):
        measure(queries, first, args.seconds)


if __name__ == "__main__":
    main()
