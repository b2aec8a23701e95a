"""Finished networks for other programs: traced, written as ONNX, held against torch, and run without fna."""
