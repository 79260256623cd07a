"""`python -m client`."""

from seresnext101_triton.client import process


def _main() -> int:
    import logging
    import os
    import warnings

    from seresnext101_triton.client.cli import main
    from seresnext101_triton.client.options import show_warning

    warnings.showwarning = show_warning
    # gRPC's own log repeats what an error says. It is read when gRPC is imported.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # Pillow warns of each broken tag of an image's metadata. The image's error says what matters.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    return main()


if __name__ == "__main__":
    process.run(_main)
