"""The hot loops: Triton kernels for DiffQKV attention (diffqkv/), Numba over Arrow buffers (text/).
Arrays and buffers in, arrays out. Beside each kernel stands a plain reference, its contract.
Knows nothing of documents, datasets, configs or the cluster: imports no Ray, vLLM, datatrove,
pydantic, and none of our other packages.
Runs wherever torch, triton, numpy, numba and pyarrow do."""
