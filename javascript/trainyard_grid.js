/* Grids: save points x strengths on the same prompts and seeds, drawn by a job of the queue. */
"use strict";

(function (ty) {
    let shown = "", drawn = "";
    ty.GRID = "grid"; // stands in such a job where a training has its method

    const numbers = (text) => new Set(text.split(/[,;]/).map((one) => one.trim()).filter(Boolean)).size;
    const lines = (text) => new Set(text.split("\n").map((line) => line.trim()).filter(Boolean)).size;

    /** One field of the form, by what the server says of it. */
    function field(one, value) {
        const id = "trainyard_grid_" + one.key;
        const rows = one.lines ? {rows: 3} : {type: "text"};
        const input = ty.el(one.lines ? "textarea" : "input",
            {id, name: one.key, spellcheck: "false", autocomplete: "off", ...rows});
        input.value = value ?? "";
        return ty.el("div", {class: "trainyard_grid_field"}, ty.el("label", {for: id, title: one.help}, one.title),
            input, ty.el("p", {class: "trainyard_hint"}, one.help));
    }

    function files(found) {
        const boxes = found.map((file) => ty.el("label", {class: "trainyard_run_row"},
            ty.el("input", {type: "checkbox", name: "file", value: file.path, checked: file.chosen}),
            ty.el("span", {}, file.name)));
        return ty.el("fieldset", {class: "trainyard_grid_files"}, ty.el("legend", {}, "Files"), ...boxes);
    }

    const chosen = (form) => [...form.querySelectorAll("input[name=file]:checked")].map((box) => box.value);

    function count(form) {
        const value = (key) => form.querySelector(`[name=${key}]`).value;
        return chosen(form).length * numbers(value("strengths")) * numbers(value("seeds")) * lines(value("prompts"));
    }

    /** Asks what is to be drawn, and puts the job into the queue. */
    ty.askGrid = async function (names) {
        const query = names.map((name) => "name=" + encodeURIComponent(name)).join("&");
        const {files: found, settings} = await ty.ask("grids/proposal?" + query);
        const fields = ty.facts.grid.filter((one) => one.key !== "loras").map((one) => field(one, settings[one.key]));
        const problem = ty.el("p", {class: "trainyard_bad", role: "alert"}, "");
        const told = ty.el("p", {id: "trainyard_grid_count", role: "status"}, "");
        const form = ty.el("form", {id: "trainyard_grid"}, ty.el("h2", {}, "Draw a grid"),
            ty.el("p", {}, "Every file at every strength, on the same prompts and seeds. It is drawn on the"
                + " checkpoint that it was trained on, as a job of the queue."),
            files(found), ty.el("div", {class: "trainyard_grid_fields"}, ...fields), told, problem,
            ty.el("div", {class: "trainyard_row"},
                ty.el("button", {type: "submit", id: "trainyard_grid_draw", class: "trainyard_button trainyard_primary"},
                    "Draw"),
                ty.button("Cancel", () => close())));
        const box = ty.el("dialog", {class: "trainyard_dialog trainyard_wide"}, form);
        const close = () => { box.close(); box.remove(); };
        const tell = () => { told.textContent = `Pictures: ${count(form)}`; };
        box.addEventListener("cancel", () => box.remove());
        form.addEventListener("input", tell);
        form.addEventListener("submit", async (event) => {
            event.preventDefault();
            const values = Object.fromEntries(ty.facts.grid.filter((one) => one.key !== "loras")
                .map((one) => [one.key, form.querySelector(`[name=${one.key}]`).value]));
            const given = {...settings, ...values, loras: chosen(form).join("\n"), method: ty.GRID};
            try {
                await ty.ask("jobs", {settings: given, start: true});
                close();
                ty.say(`${given.name} is in the queue.`, "good");
                await ty.refresh();
            } catch (error) {
                problem.textContent = error.message;
            }
        });
        ty.root.append(box);
        tell();
        box.showModal();
    };

    ty.gridUrl = (name) => ty.url("grids/picture?name=" + encodeURIComponent(name));

    /** A grid's picture, which opens whole in a tab of its own. */
    ty.gridPicture = (name) => ty.el("a", {href: ty.gridUrl(name), target: "_blank", class: "trainyard_sheet"},
        ty.el("img", {src: ty.gridUrl(name), alt: `Grid ${name}`, loading: "lazy"}));

    /** The grids that there are: one large, the others to choose from. */
    ty.drawGrids = async function (place) {
        const {grids} = await ty.ask("grids");
        if (!grids.some((one) => one.name === shown)) shown = grids.length ? grids[0].name : "";
        const key = JSON.stringify([grids, shown]);
        if (key === drawn && place.childElementCount) return;
        drawn = key;
        const small = grids.slice(0, 30).map((one) => ty.el("button", {type: "button", class: "trainyard_small",
            "aria-pressed": String(one.name === shown), onclick: () => {
                shown = one.name;
                ty.attempt(() => ty.drawGrids(place));
            }}, ty.el("img", {src: ty.url("thumbnails/" + one.thumbnail), alt: "", loading: "lazy"}),
        ty.el("span", {}, one.name)));
        place.replaceChildren(...(shown ? [ty.el("h3", {}, "Grids"), ty.gridPicture(shown),
            ty.el("div", {class: "trainyard_row"}, ty.el("a", {class: "trainyard_button", href: ty.gridUrl(shown),
                download: shown + ".png", id: "trainyard_grid_save"}, "Save this grid as PNG")),
            small.length > 1 ? ty.el("div", {class: "trainyard_strip", role: "group", "aria-label": "Grids"}, ...small)
                : ""] : []));
    };
})(window.trainyard);
