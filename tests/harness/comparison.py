"""Everything that can be read of the daemon, against what it should hold.

Owns which reads there are and how their answers follow from the rows; the order of every list is told here anew.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable
from typing import Any

import apsw
from fakes.embedder import FakeEmbedder
from harness.builtin_model import cosine
from harness.expected_calls import ExpectedCalls
from harness.expected_rows import ANYTHING, INDEXED, Record, by_time, place
from harness.likeness import Near, difference
from harness.random_calls import COLLECTIONS, KEYS, NEVER_USED, ROOTS, SPELLINGS
from harness.whole_daemon import WholeDaemon

from nexusd.clock import Clock

ALL = 500   # items of a page at most
FULL_TEXT = ("episodes_fts", "entities_fts", "summaries_fts", "messages_fts")


class Comparison:
    """One look at the daemon."""

    def __init__(
        self, daemon: WholeDaemon, model: ExpectedCalls, embedder: FakeEmbedder, chance: random.Random, clock: Clock
    ) -> None:
        self._daemon = daemon
        self._model = model
        self._embedder = embedder
        self._chance = chance
        self._clock = clock

    async def everything(self) -> None:
        """All reads."""
        await self.rows()
        await self.lists()
        await self.listed_by_session()
        await self.listed_by_conversation()
        await self.graph()
        await self.words()
        await self.files()
        await self.cache()

    async def _is(self, wanted: Any, method: str, **params: Any) -> None:
        found = difference(await self._daemon.get(method, **params), wanted)
        assert found is None, f"{method} {params}: {found}"

    async def _refused(self, kind: str, method: str, **params: Any) -> None:
        reply = await self._daemon.ask(method, params)
        assert reply.get("error", {}).get("data", {}).get("kind") == kind, (method, params, reply)

    async def _pages(self, method: str, wanted: Iterable[Record], **params: Any) -> None:
        """The list page by page, by cursor and by offset, each time the whole of it and no more."""
        wanted = list(wanted)
        few = len(wanted) < 10
        limit = self._chance.choice((1, 2, 3, len(wanted) or 1, ALL)) if few else self._chance.randint(4, 50)
        for way in ("cursor", "offset"):
            items: list[Record] = []
            more: dict[str, Any] = {}
            while True:
                page = await self._daemon.get(method, limit=limit, **params, **more)
                items += page["items"]
                assert len(items) <= len(wanted), f"{method} {params} by {way}: more than {len(wanted)}: {items}"
                if page["nextCursor"] is None:
                    break
                assert len(page["items"]) == limit
                more = {"cursor": page["nextCursor"]} if way == "cursor" else {"offset": len(items)}
            found = difference(items, wanted)
            assert found is None, f"{method} {params} by {way}, {limit} a page: {found}"

    def _shown(self, table: str, rows: Iterable[Record]) -> list[Record]:
        return [self._model.shown(table, row) for row in rows]

    # ---- rows

    async def rows(self) -> None:
        """Every row by its id, and every id that has none."""
        model = self._model
        for table in ("projects", "sessions", "episodes", "entities", "summaries", "conversations", "messages",
                      "users", "groups", "toolLogs"):  # fmt: skip
            for key, row in model.tables[table].items():
                await self._is(model.shown(table, row), f"{table}.get", id=key)
            keys = KEYS if table == "users" else [*model.gone[table], NEVER_USED]
            for key in keys:
                if key not in model.tables[table]:
                    await self._refused("not_found", f"{table}.get", id=key)
        for key in KEYS:
            if key in model.vectors:
                row = model.vectors[key]
                embedding = model.embeddings[row["rowId"]]
                await self._is({**model.shown("vectors", row), "embedding": embedding}, "vectors.get", id=key)
            else:
                await self._refused("not_found", "vectors.get", id=key)
        for row in model.sessions.values():
            await self._is(row, "sessions.getByExternalId", externalId=row["externalId"])
        keeping = {name: last for name, last in model.last_id.items() if name not in {"users", "presets", "vectors"}}
        await self._is({"tables": keeping, "model": ANYTHING}, "imports.lastIds")

    async def lists(self) -> None:
        """The lists of whole tables, with all that they filter by."""
        model = self._model
        for table in ("projects", "sessions", "groups", "entities"):
            await self._pages(f"{table}.list", self._shown(table, _newest(model.tables[table].values())))
        for project in (*model.projects, NEVER_USED):
            await self._pages("sessions.list", _newest(model.of("sessions", projectId=project)), projectId=project)
        for kind in ("person", "place", "no such"):
            mine = model.of("entities", type=kind)
            await self._pages("entities.list", self._shown("entities", _newest(mine)), type=kind)
            by_name = sorted(mine, key=lambda row: (_ascii_lower(row["name"]), row["id"]))
            await self._pages("entities.listByType", self._shown("entities", by_name), type=kind)
        await self._pages("users.list", list(model.users.values())[::-1])
        texts = sorted(model.vectors.values(), key=lambda row: -row["rowId"])
        await self._pages("vectors.list", self._shown("vectors", texts))
        await self._tool_logs()

    async def _tool_logs(self) -> None:
        logs = by_time(self._model.toolLogs.values(), newest=True)
        await self._pages("toolLogs.list", logs)
        for tool in ("clock", "none"):
            for status in ("ok", "error"):
                mine = [log for log in logs if (log["tool"], log["status"]) == (tool, status)]
                await self._pages("toolLogs.list", mine, tool=tool, status=status)
        if logs:
            one = self._chance.choice(logs)
            since, until = sorted((one["createdAt"], self._chance.choice(logs)["createdAt"]))
            mine = [log for log in logs if since <= log["createdAt"] < until]
            await self._pages("toolLogs.list", mine, since=since, until=until)
            mine = [log for log in logs if log["conversationId"] == one["conversationId"]]
            if one["conversationId"] is not None:
                await self._pages("toolLogs.list", mine, conversationId=one["conversationId"])

    async def listed_by_session(self) -> None:
        """What each session holds, and what of it nobody summed up."""
        model = self._model
        waiting = []
        for session in model.sessions.values():
            mine = by_time(model.of("episodes", sessionId=session["id"]))
            await self._pages("episodes.list", self._shown("episodes", mine[::-1]), sessionId=session["id"])
            await self._pages("episodes.list", self._shown("episodes", mine), sessionId=session["id"], order="asc")
            summaries = by_time(model.of("summaries", sessionId=session["id"]), newest=True)
            await self._pages("summaries.list", self._shown("summaries", summaries), sessionId=session["id"])
            if uncovered := model.uncovered(session["id"]):
                waiting.append((place(uncovered[0])[0], session["id"], session, uncovered))
        for least in (1, 2, 3):
            wanted = [
                {
                    "sessionId": session_id, "externalId": session["externalId"], "name": session["name"],
                    "pendingEpisodes": len(uncovered), "firstEpisodeId": uncovered[0]["id"],
                    "lastEpisodeId": uncovered[-1]["id"], "oldestAt": oldest,
                }
                for oldest, session_id, session, uncovered in sorted(waiting, key=lambda one: one[:2])
                if len(uncovered) >= least
            ]  # fmt: skip
            await self._pages("summaries.pending", wanted, minEpisodes=least)
        for method in ("episodes.list", "summaries.list"):
            await self._refused("not_found", method, sessionId=NEVER_USED)

    async def listed_by_conversation(self) -> None:
        """Conversations by whose they are and by when, and their messages."""
        model = self._model
        for order, field in (("newest", "createdAt"), ("active", "updatedAt")):
            everyone = by_time(model.conversations.values(), newest=True, field=field)
            await self._pages("conversations.list", everyone, order=order)
            for user in KEYS:
                mine = [row for row in everyone if row["userId"] == user]
                await self._pages("conversations.list", mine, order=order, userId=user)
            for group in (*model.groups, NEVER_USED):
                mine = [row for row in everyone if row["groupId"] == group]
                await self._pages("conversations.list", mine, order=order, groupId=group)
                mine = [row for row in mine if row["userId"] == "anna"]
                await self._pages("conversations.list", mine, order=order, groupId=group, userId="anna")
        for conversation_id in model.conversations:
            mine = self._shown("messages", by_time(model.of("messages", conversationId=conversation_id)))
            await self._pages("messages.list", mine, conversationId=conversation_id)
            await self._pages("messages.list", mine[::-1], conversationId=conversation_id, order="desc")
        await self._refused("not_found", "messages.list", conversationId=NEVER_USED)

    async def graph(self) -> None:
        """The links of every entity, and what can be reached from it."""
        model = self._model
        for entity_id in model.entities:
            for method, here, there in (("listFrom", "fromId", "toId"), ("listTo", "toId", "fromId")):
                links = model.of("relationships", **{here: entity_id})
                links.sort(key=lambda row: (row["label"], row[there]))
                wanted = [{**row, "entity": self._in_short(row[there])} for row in links]
                await self._pages(f"relationships.{method}", wanted, **{here: entity_id})
                mine = [row for row in wanted if row["label"] == "uses"]
                await self._pages(f"relationships.{method}", mine, **{here: entity_id}, label="uses")
            asked: dict[str, Any] = {
                "depth": self._chance.randint(1, 4), "direction": self._chance.choice(("out", "in", "both")),
                "labels": self._chance.choice((None, ["uses"], ["knows", "Uses", "no such"])),
            }  # fmt: skip
            await self._is(model.neighbourhood(entity_id, **asked), "graph.neighbours", id=entity_id, **asked)
        for method, here in (("listFrom", "fromId"), ("listTo", "toId")):
            await self._refused("not_found", f"relationships.{method}", **{here: NEVER_USED})
        await self._refused("not_found", "graph.neighbours", id=NEVER_USED)

    def _in_short(self, entity_id: int) -> Record:
        entity = self._model.entities[entity_id]
        return {name: entity[name] for name in ("id", "name", "type")}

    # ---- words

    async def words(self) -> None:
        """What holds a word is found by it, however it is written, and nothing else is."""
        model = self._model
        for root in ROOTS:
            written = self._chance.choice(SPELLINGS[root])
            other = self._chance.choice(ROOTS)
            both = f"{written} {self._chance.choice(SPELLINGS[other])}"
            for table, item in (("episodes", "episode"), ("entities", "entity")):
                for query, wanted in (
                    (written, model.holding(table, root)),
                    (both, model.holding(table, root) & model.holding(table, other)),
                ):
                    hits = (await self._daemon.get(f"{table}.search", query=query, limit=ALL))["items"]
                    assert {hit[item]["id"] for hit in hits} == wanted, (table, query)
                    self._records(table, [hit[item] for hit in hits])
            await self._words_of_all(root, written)

    async def _words_of_all(self, root: str, written: str) -> None:
        model = self._model
        wanted = {(table, id_) for table in COLLECTIONS for id_ in model.holding(table, root)}
        found = await self._daemon.get("memory.search", query=written, mode="keyword", limit=100)
        keys = [(hit["collection"], hit["id"]) for hit in found["items"]]
        assert len(set(keys)) == len(keys)
        # an exchange lends its words to those beside it in its session, which may be found by them too
        assert len(keys) == 100 or wanted <= set(keys), (written, wanted - set(keys))
        for hit in found["items"]:
            self._records(hit["collection"], [hit["record"]])
        said = await self._daemon.get("messages.search", query=written, mode="keyword", limit=100)
        ids = {hit["message"]["id"] for hit in said["items"]}
        assert len(ids) == 100 or ids == model.holding("messages", root), written
        self._records("messages", [hit["message"] for hit in said["items"]])

    def _records(self, table: str, records: Iterable[Record]) -> None:
        for record in records:
            found = difference(record, self._model.shown(table, self._model.tables[table][record["id"]]))
            assert found is None, f"a hit of {table}: {found}"

    # ---- files and the cache

    async def files(self) -> None:
        """Presets, tools and MCP servers."""
        model = self._model
        presets = {row["name"]: row for row in model.presets.values()}
        names = sorted({*presets, *model.preset_files})
        shown = {name: model.shown_preset(name, presets.get(name)) for name in names}
        await self._pages("presets.list", shown.values())
        for name in names:
            if shown[name]["id"] is None:
                await self._refused("bad_content", "presets.get", name=name)
            else:
                await self._is(shown[name], "presets.get", name=name)
                await self._is(shown[name], "presets.get", id=shown[name]["id"])
        for gone in model.gone["presets"]:
            await self._refused("not_found", "presets.get", id=gone)
        await self._pages("tools.list", [model.shown_tool(name) for name in sorted(model.tool_files)])
        for name, source in model.tool_files.items():
            shown_tool = {**model.shown_tool(name), "source": source}
            del shown_tool["state"], shown_tool["problem"]  # of a broken one nothing is answered
            await self._is(shown_tool, "tools.get", name=name)
        await self._pages("mcpServers.list", [model.shown_server(name) for name in sorted(model.servers)])
        assert ((await self._daemon.get("mcpServers.list"))["problem"] is not None) is model.servers_broken
        for name, config in model.servers.items():
            await self._is({**model.shown_server(name), "config": config}, "mcpServers.get", name=name)
        await self._refused("not_found", "mcpServers.get", name="no such")
        await self._refused("not_found", "tools.get", name="no such")
        await self._refused("not_found", "presets.get", name="no such")

    async def cache(self) -> None:
        """What is kept for a while."""
        self._model.monotonic_s = self._clock.monotonic_s()
        self._model.expire()
        for key in KEYS:
            got = await self._daemon.get("cache.get", key=key)
            value, _ = self._model.cached.get(key, (None, 0.0))
            assert (got["found"], got["value"]) == (key in self._model.cached, value), key
        assert (await self._daemon.get("cache.stats"))["entries"] == len(self._model.cached)

    # ---- when all is delivered

    async def delivered(self) -> None:
        """The outbox, the index, the full-text indexes and the vectors that are kept follow from the rows."""
        model, daemon = self._model, self._daemon
        left = (await daemon.get("outbox.list", limit=ALL))["items"]
        assert {row["state"] for row in left} <= {"dead"}
        assert sorted((row["collection"], row["rowId"]) for row in left) == sorted(model.dead())
        for table in INDEXED:
            held = await self._held(table)
            dead = {id_: held.pop(id_) for of, id_ in model.dead() if of == table and id_ in held}
            assert held == model.points(table), table
            versions = {model.row_id(table, row): row["version"] for row in model.tables[table].values()}
            # from before it was refused, or from when it had a vector of the caller's
            assert all(version <= versions[id_] for id_, version in dead.items())
            await self._kept_vectors(table)
            await self._nearest(table)
        await daemon.store.write(_sound)

    async def _held(self, table: str) -> dict[int, int]:
        target = self._daemon.collections.physical(table)
        held: dict[int, int] = {}
        while page := await self._daemon.index.scroll(target, max(held, default=0), 100):
            held.update({point.id: point.version for point in page})
        assert await self._daemon.index.count(target) == len(held)
        return held

    async def _kept_vectors(self, table: str) -> None:
        """No vector is kept of a row that is gone; one is of every row that was embedded, and of no other's text."""
        model = self._model
        kept = {row_id for (row_id,) in await self._daemon.select(
            "SELECT row_id FROM embeddings WHERE collection = ?", table
        )}  # fmt: skip
        ids = {model.row_id(table, row) for row in model.tables[table].values()}
        assert kept <= ids, f"vectors of {table} that are gone: {kept - ids}"
        embedded = {id_ for id_ in model.points(table) if table != "vectors" or model.embeddings[id_] is None}
        assert embedded <= kept, f"vectors of {table} that were not kept: {embedded - kept}"
        out = {row_id for (row_id,) in await self._daemon.select(
            "SELECT row_id FROM unindexed WHERE collection = ?", table
        )}  # fmt: skip
        rows = model.tables[table].values()
        assert out == {model.row_id(table, row) for row in rows if model.state(table, row) == "none"}

    async def _nearest(self, table: str) -> None:
        """Asked for as many as there are, the index answers every row, as near as its own vector is."""
        model = self._model
        asked = (await self._embedder.embed_documents([self._chance.choice(ROOTS)]))[0]
        question = list(struct.unpack(f"<{len(asked) // 4}f", asked))
        dead = {id_ for of, id_ in model.dead() if of == table}
        wanted = {}
        for row in model.tables[table].values():
            if model.state(table, row) != "indexed":
                continue
            own = model.own_vector(table, row)
            if own is not None:
                vector = struct.pack(f"<{len(own)}f", *own)
                length = sum(number * number for number in own) ** 0.5
            else:
                (vector,) = await self._embedder.embed_documents([model.text_of(table, row)])
                length = 1.0
            wanted[row["id"]] = Near(cosine(asked, vector) / length)
        if table == "vectors":
            hits = (await self._daemon.get("vectors.search", queryEmbedding=question, limit=ALL))["items"]
            scores = {hit["id"]: hit["similarity"] for hit in hits if hit["rowId"] not in dead}
        else:
            found = await self._daemon.get("semantic.search", collection=table, vector=question, topK=ALL)
            scores = {hit["id"]: hit["score"] for hit in found["items"] if hit["id"] not in dead}
            self._records(table, [hit["record"] for hit in found["items"]])
        found_difference = difference(scores, wanted)
        assert found_difference is None, f"{table}: {found_difference}"


def _newest(rows: Iterable[Record]) -> list[Record]:
    return sorted(rows, key=lambda row: -row["id"])


def _ascii_lower(name: str) -> str:
    return "".join(chr(ord(one) + 32) if "A" <= one <= "Z" else one for one in name)


def _sound(db: apsw.Connection) -> None:
    """SQLite finds nothing wrong, and every full-text index holds what its rows say."""
    assert db.pragma("integrity_check") == "ok"
    assert db.execute("PRAGMA foreign_key_check").fetchall() == []
    for table in FULL_TEXT:
        db.execute(f"INSERT INTO {table} ({table}, rank) VALUES ('integrity-check', 1)")
    known = {name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE sql LIKE '%USING fts5 (%'")}
    assert known == set(FULL_TEXT), "every full-text index is checked"
