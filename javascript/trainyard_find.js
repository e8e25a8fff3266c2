/* Finding and understanding a setting: the search, and the help at every field. */
"use strict";

(function (ty) {
    /** When a field counts, in words; empty for one that always does. */
    function effect(one) {
        const [other, ...wanted] = one.only_with;
        const asked = other && ty.facts.fields.find((field) => field.key === other);
        if (!asked || !asked.methods.includes(ty.method)) return "";
        return ` It counts only with ${asked.title}${wanted.length ? ": " + wanted.join(", ") : ""}.`;
    }

    /** A question mark at every field of "More" that shows its help; the others show it at once. */
    function explain() {
        const tip = ty.el("div", {id: "trainyard_tip", role: "tooltip", hidden: true});
        ty.root.append(tip);
        const hide = () => { tip.hidden = true; };
        for (const one of ty.facts.fields) {
            const block = document.getElementById(one.id);
            const help = block && helpOf(block);
            if (!help) continue;
            help.classList.add("trainyard_help");
            help.id = one.id + "_help";
            help.parentElement.classList.add("trainyard_column");
            for (const input of block.querySelectorAll("input, textarea")) {
                input.setAttribute("aria-describedby", `${help.id} ${one.id}_problem`);
                if (["int", "float"].includes(one.kind)) input.inputMode = "decimal";
                if (one.kind !== "bool") Object.assign(input, {spellcheck: false, autocomplete: "off"});
            }
            if (!["more", "second"].includes(one.section)) continue;
            const reveal = (event) => {
                tip.textContent = help.textContent + effect(one);
                tip.hidden = false;
                const spot = event.currentTarget.getBoundingClientRect();
                const left = Math.min(spot.left, window.innerWidth - tip.offsetWidth - 8);
                const below = spot.bottom + 6 + tip.offsetHeight < window.innerHeight;
                tip.style.left = Math.max(8, left) + "px";
                tip.style.top = (below ? spot.bottom + 6 : spot.top - tip.offsetHeight - 6) + "px";
            };
            block.append(ty.el("button", {type: "button", class: "trainyard_what",
                "aria-label": "Explain: " + one.title, onmouseenter: reveal, onfocus: reveal,
                onclick: reveal, onmouseleave: hide, onblur: hide}, "?"));
        }
        document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
        document.addEventListener("scroll", hide, true);
    }

    function helpOf(block) {
        const title = block.querySelector("[data-testid=block-info]");
        if (title && title.nextElementSibling && title.nextElementSibling.tagName === "DIV"
            && !title.nextElementSibling.querySelector("input")) return title.nextElementSibling;
        const label = block.querySelector("input[type=checkbox]") && block.querySelector("label");
        const beside = label && (label.previousElementSibling || label.nextElementSibling);
        return beside && !beside.querySelector("input, textarea") ? beside : null;
    }

    /** Gradio 3's handles of accordions know only the mouse. */
    function handles() {
        for (const handle of ty.root.querySelectorAll(".trainyard_group > div.label-wrap")) {
            const tell = (open) => handle.setAttribute("aria-expanded", String(open));
            handle.tabIndex = 0;
            handle.setAttribute("role", "button");
            tell(handle.classList.contains("open"));
            new MutationObserver(() => tell(handle.classList.contains("open")))
                .observe(handle, {attributeFilter: ["class"]});
            handle.addEventListener("keydown", (event) => {
                if (event.target !== handle || !["Enter", " "].includes(event.key)) return;
                event.preventDefault();
                handle.click();
            });
        }
    }

    const opened = new Set(); // handles of the groups that a search has opened, and its end closes

    const named = (one) => `${one.title} ${one.words}`.toLowerCase();

    /** Names, choices and explanation of a field. */
    function all(one) {
        const help = document.getElementById(one.id + "_help");
        return `${named(one)} ${one.choices.join(" ")} ${help ? help.textContent : ""}`.toLowerCase();
    }

    /**
     * Shows the settings of "More" whose names have every word that was typed, or where there are
     * none, those whose choices and explanation do; and tells of those that stand above.
     */
    ty.search = function () {
        const words = ty.at("search").value.trim().toLowerCase().split(/\s+/).filter(Boolean);
        const has = (text) => words.every((word) => text.includes(word));
        const mine = ty.facts.fields.filter((one) => one.methods.includes(ty.method));
        const text = mine.some((one) => has(named(one))) ? named : all;
        let found = 0;
        for (const group of ty.root.querySelectorAll(".trainyard_group")) {
            let inside = 0;
            for (const one of ty.facts.fields) {
                const block = document.getElementById(one.id);
                if (!block || !group.contains(block)) continue;
                const hit = has(text(one));
                block.classList.toggle("trainyard_unfound", !hit);
                block.classList.toggle("trainyard_found", hit && words.length > 0);
                if (hit && one.methods.includes(ty.method)) inside += 1;
            }
            group.classList.toggle("trainyard_unfound", words.length > 0 && inside === 0);
            group.classList.toggle("trainyard_found", words.length > 0 && inside > 0);
            const handle = group.querySelector(".label-wrap");
            const open = handle && handle.classList.contains("open");
            if (words.length && inside && !open) {
                opened.add(handle);
                ty.reveal(group);
            } else if (!words.length && open && opened.has(handle)) handle.click();
            found += inside;
        }
        if (!words.length) opened.clear();
        found += tellAbove(words.length ? mine.filter((one) => has(text(one))) : []);
        ty.at("search_none").hidden = found > 0 || !words.length;
    };

    /** Names the fields that stand above "More", as links to them; returns how many. */
    function tellAbove(fields) {
        const above = fields.filter((one) => !document.getElementById(one.id)?.closest(".trainyard_group"));
        const links = above.map((one) => ty.el("a", {href: "#" + one.id, onclick: (event) => {
            event.preventDefault();
            ty.goTo(document.getElementById(one.id));
        }}, one.title)).flatMap((link, i) => (i ? [", ", link] : [link]));
        ty.fill(ty.at("search_above"), ...(links.length ? ["Further up: ", ...links] : []));
        return above.length;
    }

    ty.starters.push(() => {
        ty.at("search").addEventListener("input", ty.search);
        explain();
        handles();
    });
})(window.trainyard);
