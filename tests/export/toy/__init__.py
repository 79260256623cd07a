"""A format, a precision, a runtime and a backend that no module of the project imports.

The format is PyTorch's exported programs.
"""
