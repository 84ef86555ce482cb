// A program written against the memory service's REST routes, in the order of its specification. It knows nothing of
// nexusd: fetch() alone, bodies and status codes as the specification words them. Usage: node FILE http://HOST:PORT
import assert from 'node:assert/strict';

const base = process.argv[2];

async function call(method, path, body) {
  const options = { method };
  if (body !== undefined) {
    options.headers = { 'Content-Type': 'application/json' };
    options.body = JSON.stringify(body);
  }
  const response = await fetch(base + path, options);
  const text = await response.text();
  return { status: response.status, body: text === '' ? undefined : JSON.parse(text) };
}

async function expectStatus(status, method, path, body) {
  const answer = await call(method, path, body);
  assert.equal(answer.status, status, `${method} ${path}: ${answer.status} ${JSON.stringify(answer.body)}`);
  return answer.body;
}

const steps = {
  async health() {
    const health = await expectStatus(200, 'GET', '/health');
    assert.ok(['ok', 'degraded'].includes(health.status));
  },

  async sessions() {
    const session = await expectStatus(201, 'POST', '/sessions', { externalId: 'unique-session-id', metadata: {} });
    assert.equal(session.externalId, 'unique-session-id');
    await expectStatus(201, 'POST', '/sessions', { externalId: 'another one/with ? signs', metadata: { a: 1 } });
    assert.equal((await expectStatus(200, 'GET', '/sessions')).length, 2);
    assert.equal((await expectStatus(200, 'GET', '/sessions?limit=1&offset=1')).length, 1);
    assert.deepEqual(await expectStatus(200, 'GET', `/sessions/${session.id}`), session);
    const path = `/sessions/by-external/${encodeURIComponent('another one/with ? signs')}`;
    assert.deepEqual((await expectStatus(200, 'GET', path)).metadata, { a: 1 });
    const renamed = await expectStatus(200, 'PATCH', path, { name: 'My Renamed Session' });
    assert.equal(renamed.name, 'My Renamed Session');
    await expectStatus(400, 'PATCH', path, { name: '' });
    await expectStatus(400, 'PATCH', path, {});
    await expectStatus(404, 'PATCH', '/sessions/by-external/nobody', { name: 'x' });
    assert.equal(await expectStatus(204, 'DELETE', path), undefined);
    await expectStatus(404, 'GET', path);
    await expectStatus(404, 'GET', '/sessions/4711');
    const refused = await expectStatus(400, 'POST', '/sessions', { metadata: {} });
    assert.equal(refused.error.data.fields[0].path, 'externalId');
    await expectStatus(409, 'POST', '/sessions', { externalId: 'unique-session-id' });
  },

  async episodes() {
    const { id: sessionId } = await expectStatus(200, 'GET', '/sessions/by-external/unique-session-id');
    const body = { sessionId, userMessage: 'Hello', aiResponse: 'Hi there!', tokenCount: 10, metadata: {} };
    const episode = await expectStatus(201, 'POST', '/episodes', body);
    for (const [name, value] of Object.entries(body)) assert.deepEqual(episode[name], value);
    await expectStatus(201, 'POST', '/episodes', { sessionId, userMessage: 'What is a walrus?', aiResponse: 'A seal.' });
    const found = await expectStatus(200, 'GET', '/episodes/search?q=walrus&limit=5');
    assert.deepEqual(found.map((hit) => hit.userMessage), ['What is a walrus?']);
    assert.deepEqual(await expectStatus(200, 'GET', '/episodes/search?q=%22%20OR%20(&limit=5'), []);
    assert.equal((await expectStatus(200, 'GET', `/episodes/${episode.id}`)).userMessage, 'Hello');
    const page = await expectStatus(200, 'GET', `/sessions/${sessionId}/episodes?limit=1&offset=1`);
    assert.deepEqual(page.map((each) => each.id), [episode.id]);
    await expectStatus(204, 'DELETE', `/episodes/${episode.id}`);
    await expectStatus(404, 'GET', `/episodes/${episode.id}`);
    await expectStatus(404, 'DELETE', `/episodes/${episode.id}`);
    await expectStatus(400, 'POST', '/episodes', { sessionId, aiResponse: 'to nothing' });
    await expectStatus(400, 'GET', '/episodes/walrus');
  },

  async projects() {
    const body = { name: 'My Project', description: 'Optional description', colour: '#3d3a79', icon: null };
    const project = await expectStatus(201, 'POST', '/projects', body);
    for (const [name, value] of Object.entries(body)) assert.deepEqual(project[name], value);
    await expectStatus(400, 'POST', '/projects', { description: 'without a name' });
    for (let n = 0; n < 60; n += 1) await expectStatus(201, 'POST', '/projects', { name: `project ${n}` });
    assert.equal((await expectStatus(200, 'GET', '/projects')).length, 61);
    assert.equal((await expectStatus(200, 'GET', `/projects/${project.id}`)).name, 'My Project');
    const changed = await expectStatus(200, 'PATCH', `/projects/${project.id}`, { colour: '#ffffff' });
    assert.equal(changed.colour, '#ffffff');
    assert.equal(changed.description, 'Optional description');
    const { id: sessionId } = await expectStatus(200, 'GET', '/sessions/by-external/unique-session-id');
    await expectStatus(204, 'DELETE', `/projects/${project.id}`);
    await expectStatus(404, 'GET', `/projects/${project.id}`);
    await expectStatus(200, 'GET', `/sessions/${sessionId}`);
  },

  async entities() {
    const body = { name: 'NexusAI', type: 'project', notes: 'My AI memory project', metadata: {} };
    const entity = await expectStatus(201, 'POST', '/entities', body);
    for (const [name, value] of Object.entries(body)) assert.deepEqual(entity[name], value);
    const again = await expectStatus(201, 'POST', '/entities', { ...body, notes: 'Renewed' });
    assert.equal(again.id, entity.id);
    assert.equal(again.notes, 'Renewed');
    await expectStatus(201, 'POST', '/entities', { name: 'SQLite', type: 'software' });
    const projects = await expectStatus(200, 'GET', '/entities/by-type/project');
    assert.deepEqual(projects.map((each) => each.name), ['NexusAI']);
    assert.equal((await expectStatus(200, 'GET', `/entities/${entity.id}`)).notes, 'Renewed');
    await expectStatus(400, 'POST', '/entities', { name: 'no type' });
  },

  async relationships() {
    const [{ id: fromId }] = await expectStatus(200, 'GET', '/entities/by-type/project');
    const [{ id: toId }] = await expectStatus(200, 'GET', '/entities/by-type/software');
    const link = await expectStatus(201, 'POST', '/relationships', { fromId, toId, label: 'uses', metadata: {} });
    assert.deepEqual([link.fromId, link.toId, link.label], [fromId, toId, 'uses']);
    await expectStatus(201, 'POST', '/relationships', { fromId, toId, label: 'uses', metadata: { since: 2024 } });
    const links = await expectStatus(200, 'GET', `/entities/${fromId}/relationships`);
    assert.deepEqual(links.map((each) => [each.toId, each.label]), [[toId, 'uses']]);
    await expectStatus(404, 'POST', '/relationships', { fromId, toId: 4711, label: 'uses' });
    await expectStatus(204, 'DELETE', '/relationships', { fromId, toId, label: 'uses' });
    await expectStatus(404, 'DELETE', '/relationships', { fromId, toId, label: 'uses' });
    await expectStatus(201, 'POST', '/relationships', { fromId, toId, label: 'knows' });
    await expectStatus(204, 'DELETE', `/entities/${toId}`);
    assert.deepEqual(await expectStatus(200, 'GET', `/entities/${fromId}/relationships`), []);
    await expectStatus(404, 'GET', `/entities/${toId}`);
  },
};

for (const [name, step] of Object.entries(steps)) {
  await step();
  console.log(`${name} ok`);
}
