"""A gRPC service, by the gRPC library that Debian has, on a host of a test: `greeter.py PORT`. It knows of no mesh."""

import sys
from concurrent.futures import ThreadPoolExecutor

import grpc


def hello(request: bytes, context: grpc.ServicerContext) -> bytes:
    return b"hello, " + request


server = grpc.server(ThreadPoolExecutor(4))
handlers = {"Hello": grpc.unary_unary_rpc_method_handler(hello)}
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("greeter.Greeter", handlers),))
server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
server.start()
server.wait_for_termination()
