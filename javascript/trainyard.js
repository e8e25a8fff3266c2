/* The Training tab: what its parts share. The other files of this folder add to `trainyard`. */
"use strict";

window.trainyard = window.trainyard || {
    facts: null, // what the server wrote into the page: fields, methods, choices
    root: null,
    starters: [], // functions that the other files want run once the tab is in the page
};

(function (ty) {
    /** An element by its id without the prefix. */
    ty.at = (name) => document.getElementById("trainyard_" + name);

    /** Makes an element: el("p", {class: "x", onclick: f}, "text", child, ...). */
    ty.el = function (tag, properties = {}, ...children) {
        const made = document.createElement(tag);
        for (const [name, value] of Object.entries(properties)) {
            if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
            else if (value === true) made.setAttribute(name, "");
            else if (value !== false && value !== null && value !== undefined) {
                made.setAttribute(name, value);
            }
        }
        made.append(...children.filter((child) => child !== null && child !== undefined));
        return made;
    };

    /** Replaces an element's children, but only when that changes anything to be seen. */
    ty.fill = function (element, ...children) {
        const made = document.createElement("div");
        made.append(...children.filter((child) => child !== null && child !== undefined));
        if (element.dataset.drawn === made.innerHTML) return false;
        element.dataset.drawn = made.innerHTML;
        element.replaceChildren(...made.childNodes);
        return true;
    };

    /** Sets a text, but only a new one: the webui's localisation may have translated the old. */
    ty.label = function (element, text) {
        if (element.dataset.label === text) return;
        element.dataset.label = text;
        element.textContent = text;
    };

    ty.button = (text, onclick, more = {}) =>
        ty.el("button", {type: "button", class: "trainyard_button", onclick, ...more}, text);

    /** What a route answers, or an Error with `problems`; every problem names its field. */
    ty.ask = async function (path, body, method = "POST") {
        const options = {headers: {"X-Trainyard": "1"}, credentials: "same-origin"};
        if (body !== undefined) {
            options.method = method;
            options.headers["Content-Type"] = "application/json";
            options.body = JSON.stringify(body);
        }
        let answer;
        try {
            answer = await fetch(ty.url(path), options);
        } catch {
            throw Object.assign(new Error("The server does not answer."), {lost: true, problems: []});
        }
        const read = await answer.json().catch(() => ({}));
        if (answer.ok) return read;
        const problems = Array.isArray(read.problems) ? read.problems : [];
        const text = problems.map(ty.told).join("\n") || read.error
            || (typeof read.detail === "string" ? read.detail : "")
            || `The server refused (${answer.status}).`;
        throw Object.assign(new Error(text), {problems, lost: false});
    };

    /** The address of a route, also where the webui does not lie at the root of its server. */
    ty.url = (path) => new URL("trainyard/v1/" + path, document.baseURI.split("?")[0]).href;

    /** A text of the server with the titles of settings in place of their keys. */
    ty.titled = function (text) {
        const titles = new Map([...ty.facts.grid, ...ty.facts.fields].map((one) => [one.key, one.title]));
        // not a part of a path; a key of one word, such as rank, is a word of any text
        return text.replace(/^([a-z]+): /gm, (whole, key) => (titles.has(key) ? `${titles.get(key)}: ` : whole))
            .replace(/(^|[^\w/\\.-])([a-z]+(?:_[a-z0-9]+)+)(?![\w/\\-]|\.\w)/gm,
                (whole, before, key) => before + (titles.get(key) || key));
    };

    ty.sentence = (problem) => ty.titled(problem.what + (problem.cure ? " - " + problem.cure : ""));

    ty.told = function (problem) {
        const known = [...ty.facts.fields, ...ty.facts.grid].find((one) => one.key === problem.where);
        return `${known ? known.title : problem.where}: ${ty.sentence(problem)}`;
    };

    const GOOD_NEWS_MS = 8000;
    let fading = 0, ofFields = false, outdated = false; // of the message

    /** The user changes something: a message about fields may no longer be true. */
    ty.changing = () => { outdated = ofFields; };
    /** Nothing is wrong any more. */
    ty.allRight = () => { if (outdated) ty.say(""); };

    /**
     * Tells something under the buttons: kind is "bad", "good" or "". What is good goes by itself,
     * unless there is a button with it.
     */
    ty.say = function (text, kind = "", button = null) {
        const place = ty.at("message");
        clearTimeout(fading);
        ofFields = outdated = false;
        if (!place) return; // "Reload UI" empties the page before it loads it again
        if (kind === "good" && !button) fading = setTimeout(() => ty.say(""), GOOD_NEWS_MS);
        place.className = kind ? "trainyard_" + kind : "";
        place.replaceChildren(...(text ? text.split("\n") : []).map((line) => ty.el("p", {}, line)));
        if (button) place.append(button);
        // on a narrow screen its place is far below what was pressed
        if (text && outOfSight(place)) {
            place.classList.add("trainyard_afloat");
            place.append(ty.button("\u00d7", () => ty.say(""), {"aria-label": "Close"}));
        }
    };

    function outOfSight(element) {
        const {top, bottom} = element.getBoundingClientRect();
        return element.offsetParent !== null && (bottom <= 0 || top >= window.innerHeight);
    }

    /** Runs what a button does; a failure is told, never silent. */
    ty.attempt = async function (work) {
        try {
            return await work();
        } catch (error) {
            ty.say(error.message, "bad");
            ofFields = Boolean(error.problems && error.problems.length);
            if (error.problems && ty.mark) ty.mark(error.problems, true);
            return undefined;
        }
    };

    /**
     * Asks for a text or a yes in a dialog; answers null when it was dismissed.
     *
     * `work` is done with the answer while the dialog is open: what is wrong with it is told there,
     * and can be mended there.
     */
    ty.dialog = function ({title, text = "", value = null, yes, danger = false, work = async () => {}}) {
        return new Promise((resolve) => {
            const input = value === null ? null
                : ty.el("input", {type: "text", value, "aria-label": title, id: "trainyard_dialog_text",
                    required: true, pattern: ".*\\S.*", title: "A name"});
            const wrong = ty.el("p", {class: "trainyard_bad", role: "alert"});
            let busy = false;
            const answer = (given) => { box.close(); box.remove(); resolve(given); };
            const form = ty.el("form", {method: "dialog", onsubmit: async (event) => {
                event.preventDefault();
                if (busy) return; // once is enough
                busy = true;
                const given = input ? input.value.trim() : true;
                try {
                    await work(given);
                    answer(given);
                } catch (error) {
                    wrong.textContent = error.message;
                }
                busy = false;
            }},
            ty.el("h2", {}, title), text ? ty.el("p", {}, text) : null, input, wrong,
            ty.el("div", {class: "trainyard_row"},
                ty.el("button", {type: "submit", id: "trainyard_dialog_yes",
                    class: "trainyard_button " + (danger ? "trainyard_stop" : "trainyard_primary")}, yes),
                ty.button("Cancel", () => answer(null))));
            const box = ty.el("dialog", {class: "trainyard_dialog", oncancel: () => answer(null)}, form);
            ty.root.append(box);
            box.showModal();
            if (input) input.select();
        });
    };

    ty.duration = function (seconds) {
        if (seconds === null || seconds === undefined || !isFinite(seconds)) return "";
        const s = Math.max(0, Math.round(seconds));
        if (s < 60) return `${s} s`;
        if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
        return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
    };

    ty.number = function (value) {
        if (value === null || value === undefined || !isFinite(value)) return "";
        if (value === 0) return "0";
        const size = Math.abs(value);
        if (size < 1e-3 || size >= 1e5) return value.toExponential(2).replace("e+", "e");
        return String(Number(value.toPrecision(4)));
    };

    /** Calls a function once, some time after its last request. */
    ty.later = function (work, wait_ms) {
        let timer = null;
        return () => { clearTimeout(timer); timer = setTimeout(work, wait_ms); };
    };

    /** One function of each of the other files, which may arrive after this one. */
    const PARTS = ["chart", "read", "search", "askGrid", "refresh", "plan", "takeFile", "finished",
        "freshenCards", "choicesOf"];

    function begin() {
        const root = document.getElementById("trainyard_root");
        const facts = document.getElementById("trainyard_facts");
        const drawn = root && facts && ["collect", "apply", "live", "queue"].every((name) => ty.at(name));
        if (!drawn || !PARTS.every((name) => ty[name])) {
            setTimeout(begin, 150);
            return;
        }
        if (ty.root === root) return;
        ty.root = root;
        ty.facts = JSON.parse(facts.textContent);
        if (ty.facts.standalone) root.dataset.standalone = "";
        for (const start of ty.starters) start();
    }

    setTimeout(begin, 0);
})(window.trainyard);
