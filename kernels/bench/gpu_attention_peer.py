"""Dense attention of PyTorch on a GPU, for comparison with sparse_attention, dense_attention and prefill_attention.

Same shapes as kernels/bench/{sparse,dense}_attention_gpu_bench.cc: 32 query heads, 8 KV heads, head_dim 128, bf16; one
query a sequence, then 2,048 queries after a prefix (over keys of 32 heads). Decode calls over layers of together
256 MB or more are recorded as one graph, so that neither the time to enqueue them counts nor an L2 that holds the
cache. Prints the median of 30 replays, a layer.

  python kernels/bench/gpu_attention_peer.py
"""

import statistics

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention

HEADS, KV_HEADS, HEAD_DIM = 32, 8, 128
SHAPES = ((1, 4096), (1, 8192), (1, 32768), (1, 131072), (8, 4096), (8, 32768), (32, 8192), (16, 131072))


def measure(backend: SDPBackend, n_seqs: int, n_tokens: int) -> float:
    def tensor(heads: int, tokens: int) -> torch.Tensor:
        return torch.randn(n_seqs, heads, tokens, HEAD_DIM, device="cuda", dtype=torch.bfloat16)

    kv_bytes = 2 * n_seqs * n_tokens * KV_HEADS * HEAD_DIM * 2
    layers = [(tensor(KV_HEADS, n_tokens), tensor(KV_HEADS, n_tokens)) for _ in range(max(1, (256 << 20) // kv_bytes))]
    q = tensor(HEADS, 1)

    def step() -> None:
        for k, v in layers:
            scaled_dot_product_attention(q, k, v, enable_gqa=True)

    with sdpa_kernel(backend):
        for _ in range(3):
            step()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
    times = []
    for _ in range(31):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) * 1e3)
    return statistics.median(times[1:]) / len(layers)


def measure_prefill(backend: SDPBackend, n_queries: int, n_keys: int) -> float:
    q, k, v = (
        torch.randn(1, HEADS, n, HEAD_DIM, device="cuda", dtype=torch.bfloat16) for n in (n_queries, n_keys, n_keys)
    )
    mask = {"is_causal": True} if n_queries == n_keys else {"attn_mask": causal_lower_right(n_queries, n_keys)}
    times = []
    with sdpa_kernel(backend):
        for _ in range(13):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            scaled_dot_product_attention(q, k, v, **mask)
            end.record()
            torch.cuda.synchronize()
            times.append(begin.elapsed_time(end) * 1e3)
    return statistics.median(times[3:])


def main() -> None:
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name()}")
    for n_seqs, n_tokens in SHAPES:
        for name, backend in (("cuDNN", SDPBackend.CUDNN_ATTENTION), ("flash", SDPBackend.FLASH_ATTENTION)):
            print(f"{n_seqs} x {n_tokens} tokens, {name}: {measure(backend, n_seqs, n_tokens):.1f} us a layer", flush=True)
    for n_keys in (2048, 8192, 32768, 131072):
        for name, backend in (("cuDNN", SDPBackend.CUDNN_ATTENTION), ("flash", SDPBackend.FLASH_ATTENTION)):
            us = measure_prefill(backend, 2048, n_keys)
            flop = 4 * HEAD_DIM * HEADS * (2048 * (n_keys - 2048) + 2048 * 2049 / 2)
            print(f"2048 queries, {n_keys} keys, {name}: {us:.1f} us, {flop / us * 1e-6:.0f} TFLOP/s", flush=True)


if __name__ == "__main__":
    main()
