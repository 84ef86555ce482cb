"""One request on the socket, as a client that knows nothing but sockets makes it: prints the reply's line."""

from __future__ import annotations

import socket
import sys

with socket.socket(socket.AF_UNIX) as connection:
    connection.connect("/run/nexusd/nexusd.sock")
    connection.sendall(sys.argv[1].encode() + b"\n")
    print(connection.makefile().readline(), end="")
