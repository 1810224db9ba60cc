"""How a message's length goes before it, on the control socket and on that of logs."""

from __future__ import annotations

from struct import Struct

PREFIX = Struct(">I")
