// The tasks of one's team, live. What the server lets through is all there is to see here.
import { useMemo, useState } from "react";
import { createRoot } from "react-dom/client";
import { useShape } from "@electric-sql/react";

const send = (method, path, body, token) =>
  fetch(path, {
    method,
    headers: { "content-type": "application/json", ...(token && { authorization: `Bearer ${token}` }) },
    body: JSON.stringify(body),
  });

function Login({ onLogin }) {
  const logIn = async (name) => {
    const answer = await send("POST", "/login", { name });
    onLogin({ name, ...(await answer.json()) });
  };
  return (
    <>
      <h1>Who are you?</h1>
      {["ada", "grace", "bob"].map((name) => (
        <button key={name} onClick={() => logIn(name)}>
          {name}
        </button>
      ))}
    </>
  );
}

function Board({ who }) {
  const [openOnly, setOpenOnly] = useState(false);
  const options = useMemo(
    () => ({
      url: `${location.origin}/v1/tasks`,
      headers: { authorization: `Bearer ${who.token}` },
      // On this machine there is one stream; a real site speaks HTTPS.
      warnOnHttp: false,
      // The page may narrow what it is shown.
      params: openOnly ? { where: "NOT done" } : {},
    }),
    [who.token, openOnly],
  );
  const { data, isLoading, isError, error } = useShape(options);
  const [title, setTitle] = useState("");
  const add = async (event) => {
    event.preventDefault();
    await send("POST", "/tasks", { title }, who.token);
    setTitle("");
  };
  const tasks = data.toSorted((a, b) => a.id - b.id);
  return (
    <>
      <h1>
        {who.team}: {who.name}
      </h1>
      {isError && <p role="alert">{error.message}</p>}
      <p id="state">{isLoading ? "loading" : "live"}</p>
      <label>
        <input type="checkbox" checked={openOnly} onChange={(event) => setOpenOnly(event.target.checked)} />
        Only what is open
      </label>
      <ul id="tasks">
        {tasks.map((task) => (
          <li key={task.id} className={task.done ? "done" : ""}>
            <label>
              <input
                type="checkbox"
                checked={task.done}
                onChange={() => send("PATCH", `/tasks/${task.id}`, { done: !task.done }, who.token)}
              />
              <span>{task.title}</span>
            </label>
          </li>
        ))}
      </ul>
      <form onSubmit={add}>
        <input value={title} onChange={(event) => setTitle(event.target.value)} aria-label="What is to be done" required />
        <button>Add</button>
      </form>
    </>
  );
}

function App() {
  const [who, setWho] = useState(null);
  return who === null ? <Login onLogin={setWho} /> : <Board who={who} />;
}

createRoot(document.getElementById("root")).render(<App />);
