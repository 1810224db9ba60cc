"""The fixed numbers of the protocol (`native/PROTOCOL.md`)."""

PROTOCOL = 1

MAX_DEPTH = 128
MAX_VALUES = 1 << 26
MAX_DIMS = 64
# The most digits of a decimal's coefficient, leading zeros included.
MAX_DIGITS = 4096
MAX_BUFFERS = 65_536
MAX_CONTROL_FRAME = 16 << 20
MAX_GRPC_MESSAGE = (1 << 31) - 1
# The BEAM's sockets take no longer one.
MAX_FRAME = (1 << 31) - 2

# Longer error messages and tracebacks are cut here.
MAX_TEXT = 64 << 10

# The BEAM's table of ways has so many bins of sizes for each of so many kinds of values.
BINS, KINDS = 160, 5

INLINE, ZERO_COPY, GRPC = 0, 1, 2
CALL, FETCH, SYNC = 1, 2, 3
RESULT, ERROR, ITEM, END, WAITS = 1, 2, 3, 4, 5
FORCED, STREAM, SPIN, RETURNED = 1, 2, 4, 8
