/* What the job in the form would do, and what it learns from: pictures, pairs, prompts. */
"use strict";

(function (ty) {
    const PLAN_MS = 700;
    const WINDOW_TOKENS = 75; // that a text encoder takes at once
    let planned = 0; // number of the newest plan that was asked for

    /** Works the plan out anew, a while after the last change. */
    ty.plan = ty.later(async () => {
        const place = ty.at("plan");
        const number = ++planned;
        const slow = setTimeout(() => ty.fill(place, ty.el("p", {}, "Working out the plan ...")), 600);
        try {
            const answer = await ty.ask("plan", {settings: await ty.settings(), edited: ty.editing});
            if (number !== planned) return;
            ty.fill(place, ...drawPlan(answer));
            ty.drawData(answer);
            if (answer.plan) showBlocks(answer.plan.blocks);
            tellTokens(answer.tokens);
            ty.mark(answer.problems);
            if (!answer.problems.length) ty.allRight();
        } catch (error) {
            if (number === planned) ty.fill(place, ty.el("p", {class: "trainyard_bad"}, error.message));
        } finally {
            clearTimeout(slow);
        }
    }, PLAN_MS);

    /** Leaves of the 26 blocks those that the chosen checkpoint has. */
    function showBlocks(names) {
        for (const one of ty.facts.fields) {
            if (one.key !== "blocks") continue;
            const block = document.getElementById(one.id);
            for (const label of block ? block.querySelectorAll("label") : []) {
                label.hidden = !names.includes(label.textContent.trim());
            }
        }
    }

    function drawPlan(answer) {
        const field = (problem) => ty.facts.fields.find((one) => one.key === problem.where);
        // a file may be empty too, and that is a fault
        const absent = (problem) => field(problem) && /^is (missing|empty)/.test(problem.what);
        const missing = answer.problems.filter(absent);
        const wrong = answer.problems.filter((problem) => !absent(problem));
        const lines = [];
        if (answer.plan) lines.push(...planLines(answer.plan));
        if (missing.length) {
            const names = missing.map((problem) => {
                const one = field(problem);
                return ty.el("a", {href: "#" + one.id, onclick: (event) => {
                    event.preventDefault();
                    ty.touch(problem.where);
                    ty.mark(answer.problems, true);
                }}, one.title);
            });
            const list = names.flatMap((name, i) => (i ? [", ", name] : [name]));
            lines.push(ty.el("p", {class: "trainyard_todo"}, ty.el("strong", {}, "Still needed:"), " ", ...list));
        }
        for (const problem of wrong) {
            lines.push(ty.el("p", {class: "trainyard_bad"}, ty.told(problem), ...instead(problem)));
        }
        return lines;
    }

    /** A button that puts in what would do. */
    function instead(problem) {
        if (!problem.instead) return [];
        return [" ", ty.button(`Use ${problem.instead}`, () => ty.attempt(
            () => ty.write({[problem.where]: problem.instead})), {id: "trainyard_instead", class: "trainyard_link"})];
    }

    /** Says at every prompt how long it is; a text encoder takes 75 tokens at once. */
    function tellTokens(counts) {
        for (const one of ty.facts.fields.filter((field) => field.picks === "prompt" && field.section !== "second")) {
            const block = document.getElementById(one.id), count = counts[one.key];
            let place = block.querySelector(":scope > .trainyard_tokens");
            if (!place) block.append(place = ty.el("p", {class: "trainyard_tokens"}));
            const windows = Math.ceil(count / WINDOW_TOKENS);
            place.textContent = !count ? "" : windows < 2 ? `${count} of ${WINDOW_TOKENS} tokens`
                : `${count} tokens: over ${WINDOW_TOKENS}, so it is read in ${windows} parts`;
            place.classList.toggle("trainyard_warning", windows > 1);
        }
    }

    function planLines(found) {
        const parts = found.facts.map((fact) => ty.el("li", {}, fact));
        const lines = [ty.el("ul", {class: "trainyard_facts"}, ...parts)];
        lines.push(ty.el("p", {class: "trainyard_file"}, ty.el("span", {}, "Writes"), " ",
            ty.el("code", {}, found.file)));
        if (found.named) {
            lines.push(ty.el("p", {class: "trainyard_todo"}, ty.titled(`${found.named.what}; ${found.named.cure}:`),
                ...instead(found.named)));
        }
        for (const warning of found.warnings) {
            lines.push(ty.el("p", {class: "trainyard_warning"}, ty.titled(warning)));
        }
        lines.push(ty.el("div", {class: "trainyard_row"},
            ty.el("p", {id: "trainyard_cost"}, found.cost || "", found.cost ? " " : "",
                ty.button("Measure time and memory", (event) => measure(event.target),
                    {id: "trainyard_measure", class: "trainyard_link"})),
            ty.button("Show the learning rate", () => ty.attempt(rates),
                {id: "trainyard_show_rates", class: "trainyard_link"})),
        ty.el("div", {id: "trainyard_rates"}));
        return lines;
    }

    /** Draws how the learning rate will change over the steps. */
    async function rates() {
        const found = (await ty.ask("rates", {settings: await ty.settings()})).rates;
        const points = found.map(([step, rate]) => [step, rate, rate, rate]);
        ty.chart(ty.at("rates"), [{name: "", colour: ty.COLOURS[1], points}], "Learning rate over steps",
            (point) => `learning rate ${ty.number(point[3])}`);
    }

    /** Makes a few steps of a throw-away network, to tell what the training will cost. */
    async function measure(button) {
        const place = ty.at("cost");
        place.replaceChildren("Measuring: the model is loaded and a few steps are made ...");
        const found = await ty.attempt(async () => ty.ask("measure", {settings: await ty.settings()}));
        place.replaceChildren(found ? found.cost : "", " ", button);
    }

    /** The pictures that the form names one by one: what belongs together stands together. */
    function pairs(named) {
        const title = (key) => ty.facts.fields.find((one) => one.key === key).title;
        return named.map((row, number) => ty.el("div", {class: "trainyard_pair", role: "group",
            "aria-label": `Pair ${number + 1}`}, ...row.pictures.map((one) => ty.el("figure", {},
            one.problem ? ty.el("p", {class: "trainyard_bad"}, `${one.name} ${one.problem}`)
                : ty.el("img", {src: ty.url("thumbnails/" + one.thumbnail), alt: one.name, loading: "lazy"}),
            ty.el("figcaption", {}, title(one.field), one.problem ? "" : `: ${one.width} x ${one.height}`))),
        row.same_size ? null : ty.el("p", {class: "trainyard_warning"}, "Their sizes differ.")));
    }

    /** The folder of pictures: what is in it and what is wrong with it. */
    ty.drawData = function ({data, named}) {
        const place = ty.at("data");
        if (!data) {
            ty.fill(place, ...pairs(named));
            return;
        }
        const parts = [`${data.count} picture${data.count === 1 ? "" : "s"}`, `${data.captioned} with a caption`];
        if (data.longest_tokens) parts.push(`longest caption ${data.longest_tokens} tokens`);
        const strip = data.pictures.map((one) => ty.el("figure", {title: `${one.name} (${one.width} x ${one.height})`},
            ty.el("img", {src: ty.url("thumbnails/" + one.thumbnail), alt: one.name, loading: "lazy"}),
            ty.el("figcaption", {}, one.caption || "no caption")));
        const frames = data.frames.map((one) => ty.el("tr", {}, ty.el("td", {}, `${one.width} x ${one.height}`),
            ty.el("td", {}, String(one.samples))));
        ty.fill(place,
            data.count ? ty.el("p", {}, ty.el("strong", {}, parts[0]), ", " + parts.slice(1).join(", ")) : null,
            ...data.problems.filter((one) => one.where !== "images").slice(0, 20)
                .map((one) => ty.el("p", {class: "trainyard_bad"}, ty.told(one))),
            ...data.warnings.map((text) => ty.el("p", {class: "trainyard_warning"}, ty.titled(text))),
            strip.length ? ty.el("div", {class: "trainyard_strip", tabindex: 0, role: "group",
                "aria-label": "Pictures"}, ...strip) : null,
            frames.length > 1 ? ty.el("details", {}, ty.el("summary", {}, `Cut to ${frames.length} sizes`),
                ty.el("table", {}, ty.el("thead", {}, ty.el("tr", {}, ty.el("th", {}, "Width x height"),
                    ty.el("th", {}, "Samples"))), ty.el("tbody", {}, ...frames))) : null);
    };
})(window.trainyard);
