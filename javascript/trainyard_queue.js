/* The queue, what a finished job offers, and the history of runs. */
"use strict";

(function (ty) {
    const PENDING = ["running", "paused", "queued"];
    const SHOWN_FINISHED = 6;
    const MOST_RUNS = 12; // that the server draws in one picture
    let all = false; // whether all finished jobs are shown
    let compared = new Set(), runs = [], drawnRuns = "";

    const when = (seconds) => (seconds ? new Date(seconds * 1000).toLocaleString([], {
        month: "short", day: "numeric", hour: "2-digit", minute: "2-digit"}) : "");

    const act = (job, action, body = {}) => ty.attempt(async () => {
        await ty.ask(`jobs/${job.id}/${action}`, body);
        await ty.refresh();
    });

    const kept = (job) => job.saved_step !== null;

    const remove = (job) => ty.attempt(async () => {
        if (kept(job) && !await ty.dialog({title: `Remove ${job.name}?`, yes: "Remove", danger: true,
            text: `It was saved at step ${job.saved_step} and can go on. What it has learnt is lost with it; `
                + "LoRA files that it wrote stay."})) return;
        await ty.ask(`jobs/${job.id}`, {}, "DELETE");
        await ty.refresh();
    });

    const goOn = (job) => ty.attempt(async () => {
        const {done} = await ty.ask(`jobs/${job.id}/requeue`, {resume: true});
        await ty.refresh();
        const other = ty.status.job && ty.status.job.id !== job.id ? ty.status.job.name : "";
        if (done.note) ty.say(`${job.name} is in the queue. ${done.note}`);
        else if (other) ty.say(`${job.name} comes next, when ${other} is done.`, "good");
        else ty.say(kept(job) ? `${job.name} goes on.` : `Nothing of ${job.name} was saved; it begins anew.`, "good");
    });

    const again = (job) => ty.attempt(async () => {
        if (kept(job) && !await ty.dialog({title: `Begin ${job.name} anew?`, yes: "Begin anew", danger: true,
            text: `It was saved at step ${job.saved_step} and can go on from there. What it has learnt is lost `
                + "when it begins anew."})) return;
        const {done} = await ty.ask(`jobs/${job.id}/requeue`, {resume: false});
        await ty.refresh();
        const waiting = ty.status.jobs.filter((one) => one.state === "queued" && one.id !== job.id).length;
        const behind = waiting ? ` behind ${waiting} other${waiting > 1 ? "s" : ""}` : "";
        if (done.note) ty.say(`${job.name} is in the queue. ${done.note}`);
        else if (ty.status.running) ty.say(`${job.name} is in the queue${behind}.`, "good");
        else if (waiting) ty.say(`${job.name} waits${behind}. Press Start the queue.`);
    });

    const clear = () => ty.attempt(async () => {
        await tellKept(await ty.ask("queue/clear", {}));
    });

    async function tellKept({kept: left}) {
        await ty.refresh();
        if (left === 1) ty.say("One job stays, because it can go on; Remove takes it off the list.", "good");
        else if (left) ty.say(`${left} jobs stay, because they can go on; Remove takes one off the list.`, "good");
    }

    const dismiss = (count) => ty.attempt(async () => {
        if (!await ty.dialog({title: `Remove all ${count} that wait?`, yes: "Remove them", danger: true,
            text: "Their settings are lost. LoRA files stay, and so does what can go on."})) return;
        await tellKept(await ty.ask("queue/dismiss", {}));
    });

    async function take(job, edit) {
        const {settings} = await ty.ask(`jobs/${job.id}`);
        const {values} = await ty.ask("presets/import", {settings});
        await ty.replaced(async () => {
            await ty.fillIn(values);
            ty.editing = edit ? job.id : null;
        }, edit ? `You are editing the waiting job ${job.name}: change what you like, then save it.`
            : `The form now holds the settings of ${job.name}.`, edit ? "" : "good");
        ty.at("root").scrollIntoView({behavior: "smooth"});
        ty.at("side").scrollIntoView({block: "nearest"}); // with the button that saves the changes
        await ty.refresh();
    }

    // ------------------------------------------------------------------ queue

    function drawQueue(status) {
        const jobs = [...status.jobs].sort((a, b) => rank(a) - rank(b));
        const waiting = jobs.filter((job) => job.state === "queued");
        const finished = jobs.filter((job) => ["done", "failed", "cancelled"].includes(job.state));
        const open = jobs.filter((job) => !finished.includes(job));
        const shown = [...open, ...finished.slice(0, all ? finished.length : SHOWN_FINISHED)];
        const table = jobs.length ? ty.el("ol", {id: "trainyard_jobs"}, ...shown.map((job) => row(job, waiting)))
            : ty.el("p", {class: "trainyard_hint"},
                "Nothing here yet. Trainings that you start or add stand here, and run one after the other.");
        const begin = ty.el("div", {class: "trainyard_row"}, // above the list, which may be long
            waiting.length && !status.running ? ty.button("Start the queue", () => ty.attempt(async () => {
                await ty.ask("queue/start", {});
                await ty.refresh();
            }), {id: "trainyard_queue_start", class: "trainyard_button trainyard_primary"}) : null,
            waiting.length > 1 ? ty.button("Remove all that wait", () => dismiss(waiting.length),
                {id: "trainyard_queue_dismiss"}) : null);
        const tools = ty.el("div", {class: "trainyard_row"},
            shown.length < jobs.length ? ty.button(`Show all ${jobs.length}`, () => {
                all = true;
                drawQueue(ty.status);
            }, {id: "trainyard_queue_all"}) : null,
            finished.length ? ty.button("Clear finished", clear, {id: "trainyard_queue_clear",
                title: "Remove what has ended from the list, but for what can go on; files stay"}) : null);
        const place = ty.at("queue");
        const focused = place.contains(document.activeElement) ? document.activeElement : null;
        const number = [...place.querySelectorAll("li")].indexOf(focused?.closest("li"));
        if (!place.querySelector("details[open], button:active")) { // a press would be lost
            ty.fill(place, ty.el("h2", {class: "trainyard_heading"}, "Queue"), begin, table, tools);
            if (focused) refocus(place, focused.id, number);
        }
    }

    /** The keyboard stays where it was, or beside it where that is gone or can be pressed no longer. */
    function refocus(place, id, number) {
        const rows = place.querySelectorAll("li");
        const next = rows[Math.min(number, rows.length - 1)]; // where the row of a removed job was
        const button = document.getElementById(id) || [...next?.querySelectorAll("button:enabled") || []].pop();
        (button?.disabled ? button.parentElement.querySelector("button:enabled") : button)?.focus();
    }

    const rank = (job) => {
        const place = PENDING.indexOf(job.state);
        return place === -1 ? 10 - (job.finished_s || 0) / 1e12 : Math.max(0, place - 1);
    };

    function row(job, waiting) {
        const share = job.total ? `${Math.floor(100 * job.done / job.total)} %` : "";
        const place = waiting.indexOf(job);
        const id = (name) => `trainyard_job_${job.id}_${name}`;
        const tool = (name, text, label, work, more = {}) => ty.button(text, work,
            {id: id(name), "aria-label": `${label}: ${job.name}`, title: label, ...more});
        const training = job.method !== ty.GRID;
        const tools = [];
        if (place >= 0) {
            tools.push(
                tool("up", "↑", "Move up", () => act(job, "move", {place: place - 1}), {disabled: place === 0}),
                tool("down", "↓", "Move down", () => act(job, "move", {place: place + 1}),
                    {disabled: place === waiting.length - 1}),
                training ? tool("edit", "Edit", "Edit", () => ty.attempt(() => take(job, true)),
                    {disabled: job.resume}) : null);
        } else if (training && !["running", "paused"].includes(job.state)) {
            tools.push(tool("take", "Use settings", "Put its settings into the form",
                () => ty.attempt(() => take(job, false))));
        }
        if (job.state === "running" || job.state === "paused") {
            tools.push(tool("skip", "Skip", "Save it now and go on with the next",
                () => act(job, "skip", {save: true})));
        } else {
            const ended = ["failed", "cancelled", "interrupted"].includes(job.state);
            if (training && place < 0 && (kept(job) || job.state === "interrupted")) {
                tools.push(tool("on", "Go on", kept(job) ? `Go on after step ${job.saved_step}, before all that wait`
                    : "Nothing of it was saved: begin anew, before all that wait", () => goOn(job)));
            }
            if (ended) {
                tools.push(tool("again", "Run again", "Queue it again from the beginning", () => again(job)));
            }
            tools.push(tool("copy", "Duplicate", "Queue a copy", () => act(job, "duplicate")),
                tool("remove", "Remove", "Remove from the list; LoRA files stay", () => remove(job)));
        }
        const time = when(job.finished_s || job.started_s || job.created_s);
        const facts = [ty.STATES[job.state] && ty.el("span",
            {class: "trainyard_state trainyard_is_" + job.state}, ty.STATES[job.state]),
        (job.state !== "done" || job.done < job.total) && share ? ty.el("span", {}, share) : null, ty.el("small", {}, time)];
        return ty.el("li", {"data-job": job.id, draggable: place >= 0 ? "true" : false},
            ty.el("div", {class: "trainyard_job"},
                ty.el("span", {class: "trainyard_job_name"}, ty.el("strong", {}, job.name), " ",
                    ty.el("small", {}, ty.facts.methods[job.method] || "Grid of pictures")),
                ...facts.filter(Boolean)),
            job.error ? ty.el("p", {class: "trainyard_bad"}, ty.titled(job.error)) : null,
            ty.el("div", {class: "trainyard_tools"}, ...tools));
    }

    function dragging(place) {
        let dragged = null;
        place.addEventListener("dragstart", (event) => {
            const from = event.target.closest("li[draggable]");
            dragged = from ? Number(from.dataset.job) : null;
        });
        place.addEventListener("dragover", (event) => {
            if (dragged !== null && event.target.closest("li[draggable]")) event.preventDefault();
        });
        place.addEventListener("drop", (event) => {
            const onto = event.target.closest("li[draggable]");
            if (dragged === null || !onto) return;
            event.preventDefault();
            const order = [...place.querySelectorAll("li[draggable]")];
            act({id: dragged}, "move", {place: order.indexOf(onto)});
            dragged = null;
        });
    }

    // ------------------------------------------------------------------ results

    /** What a finished job offers: to use it, to find it. */
    ty.finished = function (job) {
        const file = job.files[job.files.length - 1];
        if (!file) return [];
        if (job.method === ty.GRID) return [ty.gridPicture(job.name)];
        const name = file.split(/[\\/]/).pop().replace(/\.safetensors$/, "");
        const prompt = `<lora:${name}:1>`;
        const webui = document.querySelector("#txt2img_prompt textarea");
        return [ty.el("p", {class: "trainyard_file"}, ty.el("span", {}, "Saved"), " ", ty.el("code", {}, file)),
            ty.el("div", {class: "trainyard_row"},
                webui ? ty.button("Use in txt2img", () => ty.attempt(() => use(job, prompt, webui)),
                    {id: "trainyard_use", class: "trainyard_button trainyard_primary"})
                    : ty.button("Copy for a prompt", () => ty.attempt(async () => {
                        await ty.copy(await words(job, prompt));
                        ty.say("Copied; paste it into a prompt.", "good");
                    }), {id: "trainyard_use"}),
                ty.button("Open folder", () => ty.attempt(() => openFolder(job)), {id: "trainyard_open"}))];
    };

    async function words(job, prompt) {
        const {settings} = await ty.ask(`jobs/${job.id}`);
        return settings.trigger_word ? `${prompt} ${settings.trigger_word}` : prompt;
    }

    async function use(job, prompt, box) {
        const text = await words(job, prompt);
        if (!box.value.includes(prompt)) box.value = box.value.trim() ? `${box.value.trim()}, ${text}` : text;
        box.dispatchEvent(new Event("input", {bubbles: true}));
        if (window.switch_to_txt2img) window.switch_to_txt2img();
    }

    async function openFolder(job) {
        const {folder, opened} = await ty.ask("open-folder", {job: job.id});
        if (opened) return;
        await ty.copy(folder);
        ty.say(`No folder can be opened from here; its path was copied: ${folder}`);
    }

    async function listRuns() {
        runs = (await ty.ask("runs")).runs;
        compared = new Set([...compared].filter((name) => runs.some((run) => run.name === name)));
        await drawRuns();
        await ty.drawGrids(ty.at("grids"));
    }

    async function drawRuns() {
        const place = ty.at("results");
        const rows = runs.slice(0, 40).map((run) => ty.el("label", {class: "trainyard_run_row"},
            ty.el("input", {type: "checkbox", value: run.name, checked: compared.has(run.name),
                onchange: (event) => {
                    if (event.target.checked) compared.add(run.name);
                    else compared.delete(run.name);
                    ty.attempt(drawRuns);
                }}),
            ty.el("span", {}, run.name), ty.el("small", {}, when(run.changed_s))));
        const key = JSON.stringify([runs, [...compared]]);
        if (key === drawnRuns) return;
        drawnRuns = key;
        const before = ty.at("runs"), top = before ? before.scrollTop : 0;
        const focused = before && before.contains(document.activeElement) ? document.activeElement.value : "";
        const chart = ty.el("div", {id: "trainyard_compare"});
        const links = ty.el("div", {class: "trainyard_row"});
        const grids = ty.at("grids") || ty.el("div", {id: "trainyard_grids"});
        place.replaceChildren(ty.el("h2", {class: "trainyard_heading"}, "Results"),
            ty.el("p", {class: "trainyard_hint"}, runs.length
                ? "Choose runs to compare how their loss fell, and what they draw."
                : "The loss curves of finished trainings are kept here."),
            ty.el("div", {id: "trainyard_runs", role: "group", "aria-label": "Runs"}, ...rows), chart, links, grids);
        ty.at("runs").scrollTop = top;
        const same = focused && [...place.querySelectorAll("input")].find((box) => box.value === focused);
        if (same) same.focus({preventScroll: true});
        const names = [...compared].slice(0, MOST_RUNS);
        if (!names.length) return;
        const curves = await Promise.all(names.map(async (name, i) => ({name, colour: ty.COLOURS[i],
            points: (await ty.ask("runs/curve?name=" + encodeURIComponent(name))).curve})));
        ty.chart(chart, curves, "Loss of the chosen runs over steps");
        chart.append(ty.el("ul", {class: "trainyard_legend"}, ...curves.map((one) => ty.el("li", {},
            ty.el("i", {style: `background:${one.colour}`}), one.name))));
        if (compared.size > names.length) {
            chart.append(ty.el("p", {class: "trainyard_hint"},
                `Drawn are the first ${names.length} of the ${compared.size} that are chosen.`));
        }
        const query = names.map((name) => "name=" + encodeURIComponent(name)).join("&");
        links.append(ty.button("Draw a grid", () => ty.attempt(() => ty.askGrid(names)),
            {id: "trainyard_grid_ask", title: "Save points x strengths on the same prompts and seeds"}),
        ty.el("a", {class: "trainyard_button", href: ty.url("runs/plot?" + query),
            download: "loss.png", id: "trainyard_png"}, "Save as PNG"),
        ...names.map((name) => ty.el("a", {class: "trainyard_button", download: name + ".csv",
            href: ty.url("runs/csv?name=" + encodeURIComponent(name))}, `${name}.csv`)));
    }

    ty.starters.push(() => {
        let seen = "", tookNames = null;
        dragging(ty.at("queue"));
        ty.listeners.push((status) => {
            drawQueue(status);
            const takes = status.jobs.map((job) => `${job.id} ${job.name} ${job.state} ${kept(job)}`).join("/");
            if (tookNames !== null && tookNames !== takes) ty.plan(); // which names are taken may have changed
            tookNames = takes;
            const ended = status.jobs.filter((job) => job.finished_s).map((job) => job.id).join();
            if (ended !== seen || !runs.length && status.job) {
                seen = ended;
                ty.attempt(listRuns);
            }
        });
        ty.attempt(listRuns);
        // the log folder may be another one since it was last in sight
        new IntersectionObserver(([results]) => {
            if (results.isIntersecting) listRuns().catch(() => {}); // a lost server is told elsewhere
        }).observe(ty.at("results"));
        window.addEventListener("resize", ty.later(() => {
            drawnRuns = ""; // its chart is as wide as the page was
            ty.attempt(drawRuns);
        }, 300));
    });
})(window.trainyard);
