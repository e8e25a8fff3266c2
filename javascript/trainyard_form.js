/* The form: reading and writing its fields, marking what is wrong, choosing a method. */
"use strict";

(function (ty) {
    const STORED = "trainyard_form";
    const CHECK_MS = 250;
    let waiting = []; // promises of `read`
    let written = null; // values on their way into the fields
    let known = {}; // the fields' values as last read, by key
    const touched = new Set();
    let turn = Promise.resolve(); // ends when the form has been changed as asked so far
    let last = {}; // the method that last had a field, by the field's key

    ty.method = "";
    ty.restored = false; // whether the form holds what was kept
    ty.take = function (values) {
        const read = Object.fromEntries(ty.facts.fields.map((one, i) => [one.key, own(values[i])]));
        for (const resolve of waiting.splice(0)) resolve(read);
    };
    ty.give = () => written;

    /** The values of all fields, by key. */
    ty.read = () => new Promise((resolve, reject) => {
        waiting.push(resolve);
        setTimeout(() => reject(new Error("The form could not be read; reload the page.")), 4000);
        ty.at("collect").click();
    });

    /** One after the other, so that each reads what the one before has written. */
    function inTurn(work) {
        const done = turn.then(work);
        turn = done.catch(() => {});
        return done;
    }

    /** Sets some fields; the others stay as they are. */
    ty.write = (values) => inTurn(() => write(values));

    async function write(values) {
        const now = await ty.read();
        written = ty.facts.fields.map((one) => {
            const value = own(one.key in values ? values[one.key] : now[one.key]);
            const choices = ty.choicesOf(one);
            return choices ? {__type__: "update", value, choices} : value;
        });
        ty.at("apply").click();
        known = {...now, ...values};
        quieten();
        await new Promise((resolve) => setTimeout(resolve, 150));
        store();
        check();
        ty.plan();
    }

    /** Offers what there is to choose from now, and touches nothing that is typed. */
    ty.offer = () => inTurn(async () => {
        written = ty.facts.fields.map((one) => {
            const choices = ty.choicesOf(one);
            return choices ? {__type__: "update", choices} : {__type__: "update"};
        });
        ty.at("apply").click();
    });

    /** The job that the form describes, as settings. */
    ty.settings = () => inTurn(async () => {
        const values = await ty.read();
        const job = {method: ty.method};
        for (const one of ty.facts.fields) {
            const value = values[one.key];
            const unset = one.section === "second" && blank(value);
            if (one.methods.includes(ty.method) && !unset) job[one.key] = value ?? "";
        }
        return job;
    });

    ty.chooseMethod = (method, values = {}) => inTurn(async () => {
        const before = ty.method;
        show(method);
        const now = await ty.read();
        const changes = {};
        for (const one of ty.facts.fields) {
            if (before in one.defaults) last[one.key] = before;
            // what was never changed follows the method's own defaults
            const old = one.defaults[last[one.key]];
            if (method in one.defaults && same(now[one.key], old === undefined ? one.defaults[method] : old)) {
                changes[one.key] = one.defaults[method];
            }
        }
        await write({...changes, ...values});
    });

    /** Fills in settings that came from a preset, a job or a file. */
    ty.fillIn = (values) => {
        const {method, ...rest} = values;
        if (!method || !(method in ty.facts.methods)) return ty.chooseMethod(ty.method, rest);
        // a second pass of which they say nothing is as the first, whatever the form said of it
        const second = ty.facts.fields.filter((one) => one.section === "second" && one.methods.includes(method));
        return ty.chooseMethod(method, {...Object.fromEntries(second.map((one) => [one.key, ""])), ...rest});
    };

    /** Replaces what stands in the form and tells it; a press takes that back. */
    ty.replaced = async function (work, text, kind = "good") {
        const before = await inTurn(async () => ({method: ty.method, values: await ty.read(), last: {...last}}));
        const editing = ty.editing;
        await work();
        ty.say(text, kind, ty.button("Take it back", () => ty.attempt(async () => {
            await inTurn(async () => {
                show(before.method);
                last = before.last;
                await write(before.values);
            });
            ty.editing = editing;
            ty.say("The form is as it was before.", "good");
            await ty.refresh();
        }), {id: "trainyard_undo", class: "trainyard_link"}));
    };

    ty.reset = async function () {
        const changes = {};
        for (const one of ty.facts.fields) {
            const kept = one.required && one.section !== "second";
            if (!kept && ty.method in one.defaults) changes[one.key] = one.defaults[ty.method];
        }
        touched.clear();
        await ty.write(changes);
    };

    /** Marks the fields that problems name. `all` also marks what nobody has touched yet. */
    ty.mark = function (problems, all = false) {
        let first = null;
        for (const one of ty.facts.fields) {
            const found = problems.filter((problem) => problem.where === one.key);
            const fresh = !touched.has(one.key) && blank(known[one.key]);
            const text = found.length && (all || !fresh) ? found.map(ty.sentence).join("\n") : "";
            const block = document.getElementById(one.id);
            if (!block) continue;
            put(block, one, text);
            if (text && !first) first = block;
        }
        quieten();
        if (all && first) ty.goTo(first);
    };

    /** Brings a field into sight, and the keyboard to it. */
    ty.goTo = function (block) {
        ty.reveal(block);
        block.scrollIntoView({block: "center", behavior: "smooth"});
        (block.querySelector("input, textarea") || block).focus({preventScroll: true});
    };

    /** Counts a field as one that the user has been at, so that what is wrong with it is marked. */
    ty.touch = (key) => touched.add(key);

    /** Opens the accordions around a field. */
    ty.reveal = (block) => { for (let box = block; box; box = box.parentElement) open(box); };

    /** Gradio 3 changes the lists of its checkboxes in place: none is shared with it. */
    const own = (value) => (Array.isArray(value) ? [...value] : value);

    const blank = (value) => value === "" || value === null || value === undefined;
    const same = (a, b) => JSON.stringify(a ?? "") === JSON.stringify(b ?? "");

    function put(block, one, text) {
        let place = block.querySelector(":scope > .trainyard_problem");
        if (!place && text) {
            place = ty.el("p", {class: "trainyard_problem", id: one.id + "_problem", role: "alert"});
            block.append(place);
        }
        if (place && place.textContent !== text) place.textContent = text;
        if (place) place.hidden = !text;
        block.classList.toggle("trainyard_wrong", Boolean(text));
        for (const input of block.querySelectorAll("input, textarea")) {
            if (text) input.setAttribute("aria-invalid", "true");
            else input.removeAttribute("aria-invalid");
        }
    }

    /** Opens an accordion that is closed. */
    function open(box) {
        if (!box.classList || !box.classList.contains("trainyard_group")) return;
        const handle = box.querySelector(".label-wrap"); // a button in Gradio 4 alone
        if (handle && !handle.classList.contains("open")) handle.click();
    }

    function show(method) {
        ty.method = method;
        ty.root.dataset.method = method;
        for (const card of ty.root.querySelectorAll(".trainyard_card")) {
            const chosen = card.dataset.method === method;
            card.setAttribute("aria-checked", String(chosen));
            card.tabIndex = chosen ? 0 : -1;
        }
        ty.search(); // what is found depends on the method
    }

    /** Whether a field has no effect as the others stand. */
    ty.idle = function (one) {
        const [other, ...wanted] = one.only_with;
        const asked = other && ty.facts.fields.find((field) => field.key === other);
        if (!asked || !asked.methods.includes(ty.method)) return false;
        const own = one.section === "second" ? known["second_pass." + other] : null;
        const value = blank(own) ? known[other] : own;
        if (!wanted.length) return blank(value) || value === false || Number(value) === 0;
        return !wanted.includes(String(value));
    };

    /** Takes away the fields that have no effect; a search still finds them. */
    function quieten() {
        const lively = new Set(); // groups with at least one field that counts
        for (const one of ty.facts.fields) {
            const block = document.getElementById(one.id);
            if (!block) continue;
            const idle = ty.idle(one);
            block.classList.toggle("trainyard_idle", idle);
            const counts = !idle || block.classList.contains("trainyard_wrong");
            if (counts && one.methods.includes(ty.method)) lively.add(block.closest(".trainyard_group"));
        }
        for (const group of ty.root.querySelectorAll(".trainyard_group")) {
            group.classList.toggle("trainyard_idle", !lively.has(group));
        }
    }

    /** For a reload of this tab of the browser, and for the next one that is opened. */
    function store() {
        const kept = JSON.stringify({method: ty.method, values: known, last});
        try {
            sessionStorage.setItem(STORED, kept);
            localStorage.setItem(STORED, kept);
        } catch { /* a browser without storage only forgets the form at a reload */ }
    }

    async function restore() {
        let kept = null;
        try {
            kept = JSON.parse(sessionStorage.getItem(STORED) || localStorage.getItem(STORED) || "null");
        } catch { /* as if nothing had been kept */ }
        const method = kept && kept.method in ty.facts.methods ? kept.method : ty.facts.method;
        last = kept && kept.last || {};
        show(method);
        known = await ty.read();
        const values = {};
        for (const one of ty.facts.fields) {
            const value = kept && kept.values ? kept.values[one.key] : undefined;
            const text = typeof value === "string" && typeof known[one.key] !== "object";
            const alike = typeof value === typeof known[one.key]
                && Array.isArray(value) === Array.isArray(known[one.key]);
            if (value !== undefined && (alike || text)) values[one.key] = value;
        }
        await ty.write(values); // at once: the server may be slow, and the user not
        ty.restored = true;
        const {choices, loaded} = await ty.askChoices();
        const only = choices.checkpoint.length === 1 ? choices.checkpoint[0] : "";
        await ty.write(blank(known.checkpoint) ? {checkpoint: loaded || only} : {});
    }

    async function changed() {
        const now = await ty.read();
        const keys = Object.keys(now).filter((key) => !same(now[key], known[key]));
        if (!keys.length) return;
        for (const key of keys) touched.add(key);
        ty.changing();
        known = now;
        quieten();
        store();
        check();
        ty.plan();
    }

    const check = ty.later(async () => {
        try {
            const answer = await ty.ask("check", {settings: await ty.settings()});
            ty.mark(answer.problems);
        } catch (error) {
            if (!error.lost) ty.say(error.message, "bad");
        }
    }, 50);

    ty.starters.push(() => {
        const form = ty.at("form");
        const soon = ty.later(() => inTurn(changed).catch((error) => ty.say(error.message, "bad")), CHECK_MS);
        for (const name of ["input", "change", "click", "keyup", "focusout"]) {
            form.addEventListener(name, soon);
        }
        for (const card of form.querySelectorAll(".trainyard_card")) {
            card.addEventListener("click", () => ty.attempt(() => ty.chooseMethod(card.dataset.method)));
        }
        ty.at("methods").addEventListener("keydown", (event) => {
            const step = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1}[event.key];
            if (!step) return;
            event.preventDefault();
            const cards = [...form.querySelectorAll(".trainyard_card")];
            const next = cards[(cards.indexOf(document.activeElement) + step + cards.length) % cards.length];
            next.focus();
            next.click();
        });
        restore().catch((error) => ty.say(error.message, "bad"));
    });
})(window.trainyard);
