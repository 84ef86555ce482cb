"""The REST routes, as the memory service before this one had them: one table from route to method.

Owns the paths, their status codes, and where a route tells a result otherwise than its method does. Knows neither
the store nor HTTP.
"""

from __future__ import annotations

from typing import Any

import msgspec

from nexusd.model.episodes import EpisodeMatch
from nexusd.model.system import Health
from nexusd.wire.routes import Route

CREATED = 201
DELETED = 204


def rest_routes() -> tuple[Route, ...]:
    """Every route. Those that the specification calls "get all" answer all, unless `limit` is given."""
    return (
        Route("GET", "/health", "health", status_of=_health_status),
        Route("POST", "/sessions", "sessions.create", CREATED),
        Route("GET", "/sessions", "sessions.list", is_list=True),
        Route("GET", "/sessions/:id", "sessions.get"),
        Route("GET", "/sessions/by-external/:externalId", "sessions.getByExternalId"),
        Route("PATCH", "/sessions/by-external/:externalId", "sessions.update"),
        Route("DELETE", "/sessions/by-external/:externalId", "sessions.delete", DELETED),
        Route("GET", "/sessions/:sessionId/episodes", "episodes.list", is_list=True),
        Route("POST", "/episodes", "episodes.create", CREATED),
        Route("GET", "/episodes/search", "episodes.search", names={"q": "query"}, is_list=True, item=_scored),
        Route("GET", "/episodes/:id", "episodes.get"),
        Route("DELETE", "/episodes/:id", "episodes.delete", DELETED),
        Route("POST", "/projects", "projects.create", CREATED),
        Route("GET", "/projects", "projects.list", is_list=True, whole=True),
        Route("GET", "/projects/:id", "projects.get"),
        Route("PATCH", "/projects/:id", "projects.update"),
        Route("DELETE", "/projects/:id", "projects.delete", DELETED),
        Route("POST", "/entities", "entities.upsert", CREATED),
        Route("GET", "/entities/by-type/:type", "entities.listByType", is_list=True, whole=True),
        Route("GET", "/entities/:id", "entities.get"),
        Route("DELETE", "/entities/:id", "entities.delete", DELETED),
        Route("GET", "/entities/:fromId/relationships", "relationships.listFrom", is_list=True, whole=True),
        Route("POST", "/relationships", "relationships.upsert", CREATED),
        Route("DELETE", "/relationships", "relationships.delete", DELETED),
    )


def _health_status(health: Health) -> int:
    """503 where whoever asks had better send nothing; degraded is still served."""
    return 200 if health.status in {"ok", "degraded"} and health.writes else 503


def _scored(match: EpisodeMatch) -> dict[str, Any]:
    """The exchange itself, with its score beside its own fields."""
    return {**msgspec.to_builtins(match.episode), "score": match.score}
