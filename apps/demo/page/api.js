// What the page asks the server. A refusal is an Error whose `field` names what was wrong.

export async function ask(path, body, type = "application/json") {
  const options = body === undefined ? {} : { method: "POST", body, headers: { "Content-Type": type } };
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("the server does not answer: is it still running?");
  }
  const answer = await response.json().catch(() => ({ error: `the server said ${response.status}` }));
  if (!response.ok) {
    throw Object.assign(new Error(answer.error), { field: answer.field, status: response.status });
  }
  return answer;
}

export const askJson = (path, record) => ask(path, JSON.stringify(record));

// Starts a run and tells `on` (waiting, frame, done, cancelled, failed) what happens. Returns its id and how to cancel.
export async function startRun(task, on) {
  const { id, ahead } = await askJson("/api/runs", task);
  on.waiting({ ahead });
  const source = new EventSource(`/api/runs/${id}/events`);
  let misses = 0;
  for (const kind of ["waiting", "frame", "done", "cancelled", "failed"]) {
    source.addEventListener(kind, (event) => {
      misses = 0;
      if (kind !== "waiting" && kind !== "frame") source.close();
      on[kind](JSON.parse(event.data));
    });
  }
  source.onerror = () => {
    // The browser tries again by itself, unless the answer was no stream: the server has gone, or forgotten the run.
    if (source.readyState === EventSource.CLOSED || ++misses > 3) {
      source.close();
      on.failed({ error: "the server does not answer: is it still running?" });
    }
  };
  return { id, cancel: () => ask(`/api/runs/${id}/cancel`, "") };
}
