"""Every error that nexusd raises on purpose.

Owns the tree, each wire error's code, kind and whether trying again can help. Knows nothing of
JSON: `wire.dispatch` alone turns an error into a reply. A class's docstring is its message unless
the raiser gives a better one.

    Exception
    +-- NexusError
        +-- StartupError                        the daemon does not start; exit code 78
        |   +-- ConfigError                     a setting is wrong
        |   +-- DataDirectoryError              missing, not writable, or another daemon holds it
        |   +-- DatabaseRefusedError            not ours, or newer than this program
        |   +-- StoreUnavailableError           not now: a full or failing disk, a lock held by another program;
        |                                       exit code 70, since starting again may help
        +-- RpcError
            +-- ParseError            -32700 parse_error
            +-- InvalidRequest        -32600 invalid_request
            +-- MethodNotFound        -32601 method_not_found
            +-- InvalidParams         -32602 invalid_params
            +-- InternalError         -32603 internal_error
            +-- Unauthenticated       -32001 unauthenticated
            +-- Forbidden             -32002 forbidden
            +-- RateLimited           -32003 rate_limited          retryable
            +-- Busy                  -32004 busy                  retryable
            +-- TooLarge              -32005 too_large
            +-- Stopping              -32006 stopping              retryable
            +-- Starting              -32007 starting              retryable
            +-- NotFound              -32010 not_found
            |   +-- SessionNotFound, EpisodeNotFound, ProjectNotFound, OutboxRowNotFound, EntityNotFound,
            |       RelationshipNotFound, SummaryNotFound, ConversationNotFound, MessageNotFound, UserNotFound,
            |       GroupNotFound, ToolLogNotFound, PresetNotFound, ToolNotFound, McpServerNotFound,
            |       VectorNotFound, RowNotFound, TokenNotFound
            +-- Conflict              -32011 conflict
            |   +-- ReplyErased                                    a repeated call: done, its reply is not kept
            +-- DiskFull              -32012 disk_full             retryable
            +-- ReadOnly              -32013 read_only             retryable
            |   +-- StoreDamaged      -32016 store_damaged
            |       +-- WordsDamaged                               only the index of the words is
            +-- OutcomeUnknown        -32014 outcome_unknown       retryable (with an idempotency key)
            +-- IdempotencyMismatch   -32015 idempotency_mismatch
            +-- IndexUnavailable      -32020 index_unavailable     retryable
            +-- EmbedderUnavailable   -32021 embedder_unavailable  retryable
            +-- DimensionMismatch     -32022 dimension_mismatch
            +-- BadName               -32030 bad_name
            +-- BadContent            -32031 bad_content
            +-- BackupBusy            -32040 backup_busy           retryable
            +-- BackupInvalid         -32041 backup_invalid
            +-- NoSuchBackup          -32042 no_such_backup
"""

from __future__ import annotations

import inspect
from typing import ClassVar

from nexusd.field_errors import FieldError, what_is_wrong


class NexusError(Exception):
    """The root of all that nexusd raises on purpose."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or inspect.getdoc(type(self)) or type(self).__name__)

    @property
    def message(self) -> str:
        """The sentence for people."""
        return str(self.args[0])


class StartupError(NexusError):
    """The daemon cannot start."""

    exit_code: ClassVar[int] = 78  # EX_CONFIG of sysexits.h: starting again will not help


class ConfigError(StartupError):
    """A setting is wrong."""


class DataDirectoryError(StartupError):
    """The data directory cannot be used."""


class DatabaseRefusedError(StartupError):
    """The database file is not one that this program may open."""


class StoreUnavailableError(StartupError):
    """The database cannot be opened now."""

    exit_code = 70  # EX_SOFTWARE: a service manager tries again


class RpcError(NexusError):
    """An error with a wire code."""

    code: ClassVar[int] = -32603
    kind: ClassVar[str] = "internal_error"
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str | None = None,
        *,
        fields: tuple[FieldError, ...] = (),
        retry_after_ms: int | None = None,
    ) -> None:
        super().__init__(message)
        self.fields = fields
        self.retry_after_ms = retry_after_ms
        self.request_id: str | None = None  # known where a client rebuilds the error from a reply


class ParseError(RpcError):
    """The message is not valid JSON."""

    code = -32700
    kind = "parse_error"


class InvalidRequest(RpcError):
    """The message is JSON, but not a JSON-RPC 2.0 request."""

    code = -32600
    kind = "invalid_request"


class MethodNotFound(RpcError):
    """There is no method of this name."""

    code = -32601
    kind = "method_not_found"


class InvalidParams(RpcError):
    """The parameters are not what the method takes."""

    code = -32602
    kind = "invalid_params"

    def __init__(self, message: str | None = None, *, fields: tuple[FieldError, ...] = ()) -> None:
        super().__init__(message or what_is_wrong(fields), fields=fields)


class InternalError(RpcError):
    """Something went wrong inside; the log has it under this requestId."""

    code = -32603
    kind = "internal_error"


class Unauthenticated(RpcError):
    """Not logged in."""

    code = -32001
    kind = "unauthenticated"


class Forbidden(RpcError):
    """Not allowed to call this."""

    code = -32002
    kind = "forbidden"


class RateLimited(RpcError):
    """Too many requests."""

    code = -32003
    kind = "rate_limited"
    retryable = True


class Busy(RpcError):
    """The daemon has as much to do as it can take; try again."""

    code = -32004
    kind = "busy"
    retryable = True


class TooLarge(RpcError):
    """The message is larger than the limit."""

    code = -32005
    kind = "too_large"


class Stopping(RpcError):
    """The daemon is stopping."""

    code = -32006
    kind = "stopping"
    retryable = True


class Starting(RpcError):
    """The daemon is starting."""

    code = -32007
    kind = "starting"
    retryable = True


class NotFound(RpcError):
    """There is nothing of this id or name."""

    code = -32010
    kind = "not_found"


class SessionNotFound(NotFound):
    """No session has this id."""


class EpisodeNotFound(NotFound):
    """No episode has this id."""


class ProjectNotFound(NotFound):
    """No project has this id."""


class OutboxRowNotFound(NotFound):
    """The outbox holds no such row."""


class EntityNotFound(NotFound):
    """No entity has this id."""


class RelationshipNotFound(NotFound):
    """There is no such relationship."""


class SummaryNotFound(NotFound):
    """No summary has this id."""


class ConversationNotFound(NotFound):
    """No conversation has this id."""


class MessageNotFound(NotFound):
    """No message has this id."""


class UserNotFound(NotFound):
    """No user has this id."""


class GroupNotFound(NotFound):
    """No group has this id."""


class ToolLogNotFound(NotFound):
    """No tool log has this id."""


class PresetNotFound(NotFound):
    """There is no such preset."""


class ToolNotFound(NotFound):
    """No tool has this name."""


class McpServerNotFound(NotFound):
    """No MCP server has this name."""


class VectorNotFound(NotFound):
    """No text is stored under this id."""


class RowNotFound(NotFound):
    """The collection has no row of this id."""


class TokenNotFound(NotFound):
    """No token has this id."""


class Conflict(RpcError):
    """Something of this name exists already."""

    code = -32011
    kind = "conflict"


class ReplyErased(Conflict):
    """A call with this idempotencyKey was done. Its reply was erased, or held a secret: it cannot be told again."""


class DiskFull(RpcError):
    """The disk is full; nothing was written. Reads go on, writes resume when there is room."""

    code = -32012
    kind = "disk_full"
    retryable = True


class ReadOnly(RpcError):
    """The store takes no writes at the moment."""

    code = -32013
    kind = "read_only"
    retryable = True


class StoreDamaged(ReadOnly):
    """The database is damaged, and takes no writes. See `nexusctl doctor`; `nexusctl restore` puts a backup back."""

    code = -32016
    kind = "store_damaged"
    retryable = False


class WordsDamaged(StoreDamaged):
    """The index of words is damaged, the rows are not. Nothing was written; `nexusctl index repair` makes it anew."""


class OutcomeUnknown(RpcError):
    """The disk failed during the commit: the write may stand or not. Ask again with the same idempotencyKey."""

    code = -32014
    kind = "outcome_unknown"
    retryable = True


class IdempotencyMismatch(RpcError):
    """This idempotencyKey was used with other parameters or another method."""

    code = -32015
    kind = "idempotency_mismatch"


class IndexUnavailable(RpcError):
    """The vector index does not answer."""

    code = -32020
    kind = "index_unavailable"
    retryable = True


class EmbedderUnavailable(RpcError):
    """The embedding model or service does not answer."""

    code = -32021
    kind = "embedder_unavailable"
    retryable = True


class DimensionMismatch(RpcError):
    """A vector has another dimension than its collection."""

    code = -32022
    kind = "dimension_mismatch"


class BadName(RpcError):
    """Not a name that can be used here."""

    code = -32030
    kind = "bad_name"


class BadContent(RpcError):
    """The content cannot be taken."""

    code = -32031
    kind = "bad_content"


class BackupBusy(RpcError):
    """A backup is running already."""

    code = -32040
    kind = "backup_busy"
    retryable = True


class BackupInvalid(RpcError):
    """The backup did not pass its verification."""

    code = -32041
    kind = "backup_invalid"


class NoSuchBackup(RpcError):
    """There is no backup of this name."""

    code = -32042
    kind = "no_such_backup"
