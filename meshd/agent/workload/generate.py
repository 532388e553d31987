"""`workload_pb2.py` and its types, made from `workload.proto` by the compiler of grpcio-tools; a test sees that both
are current.

python -m meshd.agent.workload.generate
"""

from pathlib import Path
from tempfile import TemporaryDirectory

HERE = Path(__file__).parent
FILES = ("workload_pb2.py", "workload_pb2.pyi")


def generated() -> dict[str, str]:
    """What each file is to hold. Needs the development environment."""
    import grpc_tools  # noqa: PLC0415
    from grpc_tools import protoc  # noqa: PLC0415

    standard = Path(grpc_tools.__file__).parent / "_proto"
    with TemporaryDirectory() as directory:
        outputs = (f"--python_out={directory}", f"--pyi_out={directory}")
        if protoc.main(["protoc", f"-I{HERE}", f"-I{standard}", *outputs, "workload.proto"]) != 0:
            raise RuntimeError("protoc refuses workload.proto")
        return {name: Path(directory, name).read_text(encoding="utf-8") for name in FILES}


if __name__ == "__main__":
    for name, text in generated().items():
        Path(HERE, name).write_text(text, encoding="utf-8")
