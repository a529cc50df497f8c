#!/usr/bin/env python3
"""Batched orthogonal matching pursuit in NumPy, FP32: the peer of lexico-bench-kernels --op omp_encode.

Per step: one matrix product of all residuals with the dictionary, an argmax, and a batched Cholesky
solve on the chosen atoms. Vectors are made as kernels/bench/bench_data.cc makes them (24 atoms with
falling coefficients, and noise). Needs numpy only; run it from the root of the repository.

    python3 kernels/bench/omp_peer.py [--vectors 4096] [--threads 2]
"""

import argparse
import json
import os
import struct
import time

PATH = "models/lexico-20m/dictionaries/dictionary-N4096.safetensors"
TENSOR = "layers.3.k"


def load_dictionary(np, n_atoms):
    if not os.path.exists(PATH):
        atoms = np.random.default_rng(1).standard_normal((n_atoms, 128)).astype(np.float32)
        return atoms / np.linalg.norm(atoms, axis=1, keepdims=True)
    with open(PATH, "rb") as file:
        (header_bytes,) = struct.unpack("<Q", file.read(8))
        entry = json.loads(file.read(header_bytes))[TENSOR]
        begin, end = entry["data_offsets"]
        file.seek(8 + header_bytes + begin)
        halves = np.frombuffer(file.read(end - begin), dtype=np.float16)
    atoms = halves.reshape(entry["shape"])[:n_atoms].astype(np.float32)
    return atoms / np.linalg.norm(atoms, axis=1, keepdims=True)


def sparse_vectors(np, atoms, n_vectors):
    random = np.random.default_rng(2)
    x = 0.06 * random.standard_normal((n_vectors, atoms.shape[1])).astype(np.float32)
    for j in range(24):
        c = random.standard_normal((n_vectors, 1)).astype(np.float32) * np.float32(2 ** (-0.15 * j))
        x += c * atoms[random.integers(0, len(atoms), n_vectors)]
    return x


def pursue(np, x, atoms, sparsity):
    """Atoms [n, sparsity] and coefficients [n, sparsity] of x [n, head_dim]."""
    n = len(x)
    rows = np.arange(n)
    chosen = np.zeros((n, sparsity), dtype=np.int64)
    residual = x
    for k in range(1, sparsity + 1):
        scores = np.abs(residual @ atoms.T)
        if k > 1:
            scores[rows[:, None], chosen[:, : k - 1]] = -1
        chosen[:, k - 1] = scores.argmax(axis=1)
        basis = atoms[chosen[:, :k]]  # [n, k, head_dim]
        gram = basis @ basis.transpose(0, 2, 1)
        right = np.einsum("nkm,nm->nk", basis, x)
        lower = np.linalg.cholesky(gram)
        half = np.linalg.solve(lower, right[..., None])
        coefficients = np.linalg.solve(lower.transpose(0, 2, 1), half)[..., 0]
        residual = x - np.einsum("nk,nkm->nm", coefficients, basis)
    error = np.linalg.norm(residual, axis=1) / np.linalg.norm(x, axis=1)
    return chosen, coefficients, error


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vectors", type=int, default=4096)
    parser.add_argument("--batch", type=int, default=1024, help="vectors taken together")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    # Read by the BLAS of NumPy when it is first loaded, hence before the import.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(args.threads)
    import numpy as np

    for n_atoms in (1024, 4096):
        atoms = load_dictionary(np, n_atoms)
        x = sparse_vectors(np, atoms, args.vectors)
        for sparsity in (8, 16):
            pursue(np, x[:64], atoms, sparsity)
            wall, cpu = time.perf_counter(), time.process_time()
            errors = [
                pursue(np, x[i : i + args.batch], atoms, sparsity)[2]
                for i in range(0, len(x), args.batch)
            ]
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            print(
                f"numpy {np.__version__}, {args.threads} threads: n_atoms {n_atoms} sparsity {sparsity} "
                f"vectors {len(x)}: {len(x) / wall:.0f} vectors/s, {cpu / len(x) * 1e6:.1f} us of CPU a vector, "
                f"mean relative error {np.concatenate(errors).mean():.4f}"
            )


if __name__ == "__main__":
    main()
