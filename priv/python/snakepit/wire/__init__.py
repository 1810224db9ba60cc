"""Bytes on sockets: frames, gRPC payloads, the control socket."""
