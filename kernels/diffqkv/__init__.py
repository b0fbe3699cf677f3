"""DiffQKV attention (arXiv 2501.13629) in Triton: n_q query, n_k K and n_v V heads, d_k != d_v.
One file an op: a naive torch reference, its contract; the kernels; a launcher; the torch op ``diffqkv::...``.
``shapes`` says which shapes are refused and why, ``configs`` holds the launch configurations,
``aot`` compiles a kernel for a GPU that need not be there. No models, caches or modules:
they are in ``sigma_model``. On a CPU the kernels run in Triton's interpreter (TRITON_INTERPRET=1).
"""
