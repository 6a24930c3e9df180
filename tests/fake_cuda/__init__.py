"""Training and evaluation on tensors of a CUDA device that is not there.

A fake tensor of PyTorch has a shape, a type, strides and a device, and no values. So it tells on
which device every operation runs, in which memory format, how many there are, and where the CPU
would wait for the GPU; not how long anything takes, nor what comes out.

PyTorch lets fake tensors be on a GPU without one, except for its autograd engine, which asks CUDA
for devices and streams. A library of 30 lines answers (`library`). It must be loaded before torch,
so the checks (`checks`) are a process of their own, ``python -m tests.fake_cuda``, which prints one
line of JSON for each.
"""
