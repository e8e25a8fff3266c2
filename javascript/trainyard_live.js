/* What runs: the buttons, progress, the loss curve and the log, by polling the status route. */
"use strict";

(function (ty) {
    const BUSY_MS = 700, IDLE_MS = 3000, HIDDEN_MS = 6000, LOST_MS = 2500;
    let curve = [], curveJob = null, curveBegan = "", lost = false, server = null, drawn = "", sampled = "";
    let timer = null, polling = null, next = null; // the poll under way, and the one that follows it at once
    ty.status = null; // the server's last answer
    ty.editing = null; // the waiting job whose settings are in the form
    ty.listeners = []; // called with every new status

    /** Asks now, and again after a while. */
    async function poll() {
        if (!ty.root.isConnected) return; // "Reload UI" has emptied the page
        let wait_ms = IDLE_MS;
        try {
            const status = await ty.ask(`status?job=${curveJob ?? ""}&since=${lastStep()}`);
            if (lost) back(status);
            server = status.server;
            const whole = keep(status);
            ty.status = status;
            draw(status);
            for (const listener of ty.listeners) listener(status);
            wait_ms = !whole ? 0 : status.running ? BUSY_MS : IDLE_MS;
        } catch (error) {
            wait_ms = LOST_MS;
            if (!lost && ty.root.isConnected) gone(error);
        }
        if (document.hidden || !ty.root.offsetParent) wait_ms = Math.max(wait_ms, HIDDEN_MS);
        timer = setTimeout(ty.refresh, wait_ms);
    }

    /** Polls at once, because something has changed; one poll at a time, each with a timer of its own. */
    ty.refresh = function () {
        clearTimeout(timer);
        if (polling) {
            // what is under way may have been answered before the change
            next ??= polling.then(() => { next = null; return ty.refresh(); });
            return next;
        }
        polling = poll().finally(() => { polling = null; });
        return polling;
    };

    function gone(error) {
        lost = true;
        ty.root.classList.add("trainyard_lost");
        ty.say((error.lost ? "The server does not answer." : error.message)
            + " What you see may be old. Trying again by itself ...", "bad");
        for (const button of ty.at("actions").children) button.disabled = true;
    }

    function back(status) {
        lost = false;
        ty.root.classList.remove("trainyard_lost");
        const restarted = server !== null && status.server !== server;
        ty.say(restarted ? "The server is back; it was started anew." : "The server is back.", "good");
        ty.plan();
    }

    const lastStep = () => (curve.length ? curve[curve.length - 1][0] : 0);

    /** Adds the new points of the curve; false where it began again and its first points were not asked for. */
    function keep(status) {
        const asked = status.curve_job === curveJob ? lastStep() : 0;
        const began = `${status.server}:${status.curve_began}`, same = began === curveBegan;
        curveJob = status.curve_job;
        curveBegan = began;
        if (same) curve = curve.concat(status.curve);
        else curve = asked ? [] : status.curve;
        return same || !asked;
    }

    // ------------------------------------------------------------------ buttons

    const OF_A_JOB = ["pause", "stop_save", "stop"]; // out of the way while nothing runs
    const pressed = new Set(); // buttons whose work is under way

    const current = () => (ty.status && ty.status.job) || null;

    function buttons(status) {
        if (lost) return; // they stay as they are until the server answers again
        const job = status.job, paused = Boolean(job) && job.state === "paused";
        const start = ty.at("start"), waiting = status.jobs.filter((one) => one.state === "queued").length;
        start.disabled = false;
        ty.label(start, waiting ? "Add and start the queue" : "Start training");
        start.hidden = status.running;
        for (const name of OF_A_JOB) ty.at(name).hidden = !job;
        ty.at("enqueue").disabled = false;
        ty.label(ty.at("enqueue"), ty.editing !== null ? "Save changes to the waiting job" : "Add to queue");
        ty.at("leave").disabled = false;
        ty.at("leave").hidden = ty.editing === null;
        ty.at("enqueue").title = status.running || waiting ? "It runs when the others are done" : "";
        ty.at("pause").disabled = !job || status.stopping;
        ty.label(ty.at("pause"), paused ? "Go on" : "Pause");
        ty.at("stop").disabled = !job;
        ty.at("stop_save").disabled = !job || status.stopping
            || !(status.step || job.method === ty.GRID && job.done);
        for (const button of pressed) button.disabled = true;
    }

    /** A waiting job that has begun or is gone, perhaps by another tab, can be edited no longer. */
    function forgetEdit(status) {
        if (ty.editing === null) return;
        if (status.jobs.some((job) => job.id === ty.editing && job.state === "queued")) return;
        ty.editing = null;
        ty.say("The job that you were editing waits no longer; the form keeps what you changed.");
    }

    async function enqueue(start) {
        const settings = await ty.settings();
        ty.say("");
        if (ty.editing !== null && !start) {
            await ty.ask(`jobs/${ty.editing}`, {settings}, "PATCH");
            ty.editing = null;
            ty.plan(); // its name is taken now
            ty.say("The waiting job was changed.", "good");
        } else {
            const {job, note} = await ty.ask("jobs", {settings, start});
            const ahead = ty.status.jobs.filter((one) => ["queued", "running", "paused"].includes(one.state));
            const behind = ahead.length ? ` behind ${ahead.length} other${ahead.length > 1 ? "s" : ""}` : "";
            if (note) ty.say(`${job.name} is in the queue. ${note}`);
            else ty.say(start && !ahead.length ? `${job.name} starts.` : `${job.name} is in the queue${behind}.`, "good");
        }
        await ty.refresh();
    }

    async function leave() {
        ty.editing = null;
        ty.plan(); // its name is taken again
        ty.say("The waiting job is as it was; the form keeps what you changed.", "good");
    }

    async function pause() {
        const job = current();
        if (job) await ty.ask(`jobs/${job.id}/${job.state === "paused" ? "resume" : "pause"}`, {});
        await ty.refresh();
    }

    async function stop(save) {
        const job = current();
        if (!job) return;
        if (!save) {
            const sure = await ty.dialog({title: `Stop ${job.name} without a LoRA file?`, yes: "Stop",
                danger: true, text: `${await costOfStop(job)} The queue waits.`});
            if (!sure) return;
        }
        await ty.ask(`jobs/${job.id}/stop`, {save});
        ty.say(save ? "Saving after this step. The queue waits." : "Stopping after this step. The queue waits.");
        stopping = job.id;
        await ty.refresh();
    }
    let stopping = null; // the job of which the message tells that it is about to end

    /** What a stop without saving loses, which depends on whether states are noted. */
    async function costOfStop(job) {
        if (job.method === ty.GRID) return "What it has drawn is lost.";
        if (!ty.status.step) return "It has made no step yet.";
        const {settings} = await ty.ask(`jobs/${job.id}`);
        return settings.save_state_every_steps || settings.save_state_every_minutes
            ? "Where it stands is saved, so that it can go on later: press Go on in the queue."
            : "Saving where it stands is switched off for it, so it cannot go on later: what it has learnt since "
                + "its last saved file is lost.";
    }

    function forgetStop(status) {
        if (stopping === null || status.job && status.job.id === stopping) return;
        stopping = null;
        ty.say("");
    }

    /** The last that an ended job told, unless that is a mere warning of one that came to its end. */
    const lastWord = (job) => (job.notes.length && (job.state !== "done" || job.saved_step !== null)
        ? job.notes[job.notes.length - 1] : "");

    // ------------------------------------------------------------------ progress

    function draw(status) {
        forgetEdit(status);
        buttons(status);
        const place = ty.at("live");
        if (!place.childElementCount) skeleton(place);
        const job = status.job || lastRun(status);
        place.hidden = !job;
        if (!job) return;
        progress(job, status);
        const key = `${curveBegan}:${curve.length}:${lastStep()}:${place.clientWidth}`;
        if (key !== drawn) {
            drawn = key;
            ty.at("curve").hidden = curve.length < 2;
            if (curve.length > 1) {
                ty.chart(ty.at("curve"), [{name: job.name, colour: ty.COLOURS[0], points: curve}],
                    "Loss over steps");
            }
        }
        const seen = `${job.name}:${status.samples}:${status.server}`;
        if (seen !== sampled) {
            sampled = seen;
            if (job.method === ty.GRID) ty.fill(ty.at("samples"));
            else ty.attempt(() => strip(ty.at("samples"), job.name));
        }
        const log = ty.at("log"), atEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 8;
        const text = status.log.join("\n");
        if (log.textContent !== text) {
            log.textContent = text;
            if (atEnd) log.scrollTop = log.scrollHeight;
        }
        ty.at("log_box").hidden = !text;
    }

    const lastRun = (status) => status.jobs.find((one) => one.id === status.curve_job) || null;

    function skeleton(place) {
        place.append(
            ty.el("div", {id: "trainyard_headline"}),
            ty.el("p", {id: "trainyard_last_word", class: "trainyard_hint"}),
            ty.el("div", {id: "trainyard_bar", role: "progressbar", "aria-label": "Progress",
                "aria-valuemin": 0, "aria-valuemax": 100}, ty.el("div", {})),
            ty.el("dl", {id: "trainyard_numbers"}),
            ty.el("div", {id: "trainyard_curve"}),
            ty.el("div", {id: "trainyard_samples"}),
            ty.el("div", {id: "trainyard_done"}),
            ty.el("details", {id: "trainyard_log_box"}, ty.el("summary", {}, "Log"),
                ty.button("Copy", () => ty.attempt(copyLog), {id: "trainyard_log_copy"}),
                ty.el("pre", {id: "trainyard_log", tabindex: 0})));
    }

    /** The pictures that a run drew on its way: a row for each prompt, time from left to right. */
    async function strip(place, name) {
        const {samples, prompts} = await ty.ask("runs/samples?name=" + encodeURIComponent(name));
        const rows = [...new Set(samples.map((one) => one.prompt))].map((prompt) => {
            const pictures = samples.filter((one) => one.prompt === prompt).map((one) => {
                const source = ty.url(`runs/sample?name=${encodeURIComponent(name)}&file=${one.file}`);
                return ty.el("figure", {}, ty.el("a", {href: source, target: "_blank"},
                    ty.el("img", {src: source, alt: `Prompt ${prompt + 1} at step ${one.step}`, loading: "lazy"})),
                ty.el("figcaption", {}, `Step ${one.step}`));
            });
            return ty.el("div", {}, ty.el("p", {class: "trainyard_hint"}, prompts[prompt] || `Prompt ${prompt + 1}`),
                ty.el("div", {class: "trainyard_strip", tabindex: 0, role: "group",
                    "aria-label": `Pictures of prompt ${prompt + 1}`}, ...pictures));
        });
        if (!ty.fill(place, ...rows)) return;
        for (const row of place.querySelectorAll(".trainyard_strip")) row.scrollLeft = row.scrollWidth;
    }

    async function copyLog() {
        await ty.copy(ty.at("log").textContent);
        ty.say("The log was copied.", "good");
    }

    /** Puts a text into the clipboard, also where the page is not served by https. */
    ty.copy = async function (text) {
        if (navigator.clipboard && window.isSecureContext) return navigator.clipboard.writeText(text);
        const area = ty.el("textarea", {class: "trainyard_hidden"});
        area.value = text;
        ty.root.append(area);
        area.style.display = "block";
        area.select();
        const done = document.execCommand("copy");
        area.remove();
        if (!done) throw new Error("The browser did not let this page copy.");
        return undefined;
    };

    ty.STATES = {queued: "Waiting", running: "Running", paused: "Paused", done: "Done", failed: "Failed",
        cancelled: "Stopped", interrupted: "Interrupted"};

    function progress(job, status) {
        const live = Boolean(status.job), step = live ? status.step : null;
        const ended = !live && job.state === "done"; // also one that was stopped and saved on its way
        const share = job.total ? Math.min(1, job.done / job.total) : ended ? 1 : null;
        const phase = live ? job.phase || "Starting" : ty.STATES[job.state];
        ty.fill(ty.at("headline"), ty.el("strong", {}, job.name), " ",
            ty.el("span", {class: "trainyard_state trainyard_is_" + job.state},
                job.state === "paused" ? "Paused" : status.stopping ? "Stopping" : phase),
            ty.el("span", {class: "trainyard_count"}, job.total ? `${job.done} / ${job.total}` : ""));
        const word = ty.titled(live ? status.hint : lastWord(job));
        ty.label(ty.at("last_word"), word);
        ty.at("last_word").hidden = !word;
        const bar = ty.at("bar");
        bar.classList.toggle("trainyard_busy", live && share === null);
        bar.firstElementChild.style.width = `${100 * (share ?? 0)}%`;
        if (share === null) bar.removeAttribute("aria-valuenow");
        else bar.setAttribute("aria-valuenow", Math.round(100 * share));
        ty.fill(ty.at("numbers"), ...numbers(job, step, status).flatMap(([name, value]) => (value
            ? [ty.el("div", {}, ty.el("dt", {}, name), ty.el("dd", {}, value))] : [])));
        ty.fill(ty.at("done"), job.error ? ty.el("p", {class: "trainyard_bad"}, ty.titled(job.error)) : null,
            ...(live ? [] : ty.finished(job)));
    }

    function numbers(job, step, status) {
        const training = step && status.phase_left_s === null && job.total === step.total_steps;
        const speed = step && step.steps_per_s
            ? (step.steps_per_s >= 1 ? `${ty.number(step.steps_per_s)} steps/s`
                : `${ty.number(1 / step.steps_per_s)} s/step`) : "";
        const rate = step ? ty.number(step.learning_rate)
            + (step.text_encoder_learning_rate !== null
                && step.text_encoder_learning_rate !== step.learning_rate
                ? `, text ${ty.number(step.text_encoder_learning_rate)}` : "") : "";
        const took = !status.job && job.started_s && job.finished_s
            ? ty.duration(job.finished_s - job.started_s) : "";
        return [
            ["Step", step ? `${step.step} / ${step.total_steps}` : ""],
            ["Epoch", step ? String(step.epoch) : ""],
            ["Time left", ty.duration(training ? step.left_s : status.job && status.phase_left_s)],
            ["Speed", speed],
            ["Loss", ty.number(step ? step.smoothed_loss : job.loss)],
            ["Learning rate", rate],
            ["Memory", status.job && status.memory_mb ? `${(status.memory_mb / 1024).toFixed(1)} GB` : ""],
            [job.resume ? "Took since Go on" : "Took", took],
        ];
    }

    /** On a narrow screen: the way to what runs, and what it says, while that is out of sight. */
    function jump() {
        const link = ty.at("jump"), run = ty.at("run");
        link.addEventListener("click", (event) => {
            event.preventDefault();
            run.scrollIntoView({behavior: "smooth"});
        });
        new IntersectionObserver(([seen]) => { link.hidden = seen.isIntersecting; }).observe(run);
        new IntersectionObserver(([seen]) => {
            if (seen.isIntersecting) ty.at("message").classList.remove("trainyard_afloat");
        }).observe(ty.at("actions"));
    }

    ty.starters.push(() => {
        jump();
        ty.listeners.push(forgetStop);
        const actions = {start: () => enqueue(true), enqueue: () => enqueue(false), leave, pause,
            stop: () => stop(false), stop_save: () => stop(true)};
        for (const [name, work] of Object.entries(actions)) {
            const button = ty.at(name);
            button.addEventListener("click", async () => {
                const byKeyboard = document.activeElement === button;
                button.disabled = true; // a second click cannot start a second job
                pressed.add(button);
                await ty.attempt(work);
                pressed.delete(button);
                if (ty.status) buttons(ty.status);
                if (byKeyboard && document.activeElement === document.body) {
                    const others = [button, ...ty.at("actions").children];
                    others.find((one) => !one.hidden && !one.disabled)?.focus();
                }
            });
        }
        for (const button of ty.at("actions").children) button.disabled = true;
        for (const name of [...OF_A_JOB, "leave"]) ty.at(name).hidden = true;
        document.addEventListener("visibilitychange", () => { if (!document.hidden) ty.refresh(); });
        window.addEventListener("resize", ty.later(() => { if (ty.status) draw(ty.status); }, 200));
        ty.refresh();
    });
})(window.trainyard);
