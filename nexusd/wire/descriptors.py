"""How many connections the file descriptors of this process are enough for.

Owns that account: what connections may take, and what stays for the files of the daemon itself. Knows no connection.
"""

from __future__ import annotations

import resource
from typing import Any

import msgspec

from nexusd.config_sections import LimitsConfig
from nexusd.errors import StartupError

# For the daemon itself: database, WAL and lock of each reader, pipes to its child processes, a backup or a restore at
# work, files that are watched, the log. About fifty are open at a time.
RESERVED = 160
FEWEST = 96     # with room for fewer, those that wait to be told that there is none included, it would be of no use


def room_for(connections: int) -> int:
    """How many of so many connections may be open at a time. The soft limit is raised as far as they need it.

    Raises:
        StartupError: too few to be of use.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + RESERVED
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if most < min(wanted, RESERVED + FEWEST):
        raise StartupError(
            f"the system lets this process open {hard} files; {min(wanted, RESERVED + FEWEST)} are the fewest that it "
            "can work with (ulimit -n, or LimitNOFILE= of the service)"
        )
    return most - RESERVED


def within_descriptors(limits: LimitsConfig, besides: int, log: Any) -> LimitsConfig:
    """The limits, with no more connections than there are files for; so many are told `besides` that there is no room.

    Raises:
        StartupError: too few to be of use.
    """
    room = room_for(limits.max_connections + besides) - besides
    if room < limits.max_connections:
        log.warning("too few files may be open for server.limits.maxConnections",
                    max_connections=limits.max_connections, taken=room)
    return msgspec.structs.replace(limits, max_connections=room)
