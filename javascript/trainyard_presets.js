/* Presets: load, save, rename, delete, reset, and settings from a file. */
"use strict";

(function (ty) {
    const LENGTH_BYTES = 8, HEADER_BYTES_MAX = 50e6; // of a .safetensors file
    const MENU = "details.trainyard_menu";
    let presets = [];

    const chosen = () => ty.at("preset").value;

    async function list(select) {
        presets = (await ty.ask("presets")).presets;
        const box = ty.at("preset"), before = select || chosen();
        const options = (own) => presets.filter((one) => one.own === own)
            .map((one) => ty.el("option", {value: one.name}, one.name));
        const groups = [["Yours", options(true)], ["Shipped", options(false)]]
            .filter(([, members]) => members.length)
            .map(([label, members]) => ty.el("optgroup", {label}, ...members));
        box.replaceChildren(ty.el("option", {value: ""}, "Choose a preset"), ...groups);
        if (presets.some((one) => one.name === before)) box.value = before;
        buttons();
    }

    function buttons() {
        const one = presets.find((preset) => preset.name === chosen());
        ty.at("preset_load").disabled = !one;
        for (const name of ["preset_rename", "preset_delete"]) {
            ty.at(name).disabled = !one || !one.own;
            ty.at(name).title = one && !one.own ? "Only your own presets can be changed" : "";
        }
    }

    async function load() {
        const {values} = await ty.ask("presets/load", {name: chosen()});
        await ty.replaced(() => ty.fillIn(values), `Preset loaded: ${chosen()}`);
    }

    async function save() {
        const one = presets.find((preset) => preset.name === chosen());
        const settings = await ty.settings();
        for (const field of ty.facts.fields) {
            const personal = field.required || field.picks || field.key === "name";
            if (personal && field.picks !== "prompt") delete settings[field.key];
        }
        // a concept that is not named yet is left to whoever loads it
        const unsaid = !(settings.original_prompt || "").trim() && !(settings.target_prompt || "").trim();
        for (const key of unsaid ? ["original_prompt", "target_prompt"] : []) delete settings[key];
        let taken = false;
        const name = await ty.dialog({title: "Save as preset", yes: "Save", value: one && one.own ? one.name : "",
            text: "All fields are saved but the ones that name your pictures and files.",
            work: async (given) => {
                try {
                    await ty.ask("presets/save", {name: given, settings});
                } catch (error) {
                    taken = error.problems.length === 1 && error.problems[0].what.includes("exists already");
                    if (!taken) throw error;
                }
            }});
        if (!name) return;
        if (taken && !await ty.dialog({title: `Overwrite the preset ${name}?`, yes: "Overwrite", danger: true,
            text: "Its old values are lost."})) return;
        if (taken) await ty.ask("presets/save", {name, settings, overwrite: true});
        await list(name);
        ty.say(`Preset saved: ${name}`, "good");
    }

    async function rename() {
        const old = chosen();
        const name = await ty.dialog({title: `Rename the preset ${old}`, yes: "Rename", value: old,
            work: async (given) => { if (given !== old) await ty.ask("presets/rename", {old, new: given}); }});
        if (name && name !== old) await list(name);
    }

    async function remove() {
        const name = chosen();
        const sure = await ty.dialog({title: `Delete the preset ${name}?`, yes: "Delete", danger: true});
        if (!sure) return;
        await ty.ask("presets/delete", {name});
        await list();
    }

    /** Settings of a dropped or chosen file; of a LoRA only its header is read, and in the page. */
    async function take(file) {
        const lora = file.name.toLowerCase().endsWith(".safetensors");
        const read = lora ? await header(file) : object(await file.text());
        if (!read) throw new Error(`${file.name} is no preset - drop a preset or a LoRA`);
        const {values, lost} = await ty.ask("presets/import", {settings: read});
        const lines = lost.map((one) => `${ty.told(one)}`);
        const told = [`Settings taken from ${file.name}`, ...lines].join("\n");
        await ty.replaced(() => ty.fillIn(values), told, lines.length ? "" : "good");
    }

    /** The JSON object in a text; null where there is none. */
    function object(text) {
        try {
            const read = JSON.parse(text);
            return read && typeof read === "object" && !Array.isArray(read) ? read : null;
        } catch {
            return null;
        }
    }

    /** The settings in a LoRA's header: eight bytes of length, then JSON. */
    async function header(file) {
        const broken = new Error(`${file.name} is no LoRA file, or is cut off`);
        if (file.size < LENGTH_BYTES) throw broken;
        const start = new DataView(await file.slice(0, LENGTH_BYTES).arrayBuffer());
        const end = LENGTH_BYTES + Number(start.getBigUint64(0, true));
        if (end > Math.min(file.size, HEADER_BYTES_MAX)) throw broken;
        const read = object(await file.slice(LENGTH_BYTES, end).text());
        if (!read) throw broken;
        const checkpoint = Object.keys(read).some((name) => name.startsWith("model.diffusion_model."));
        if (checkpoint) throw new Error(`${file.name} is a checkpoint, not a LoRA`);
        return {metadata: read.__metadata__ || {}};
    }

    /** The whole form as a file that the command line trains. */
    async function download() {
        const settings = await ty.settings();
        const content = new Blob([JSON.stringify(settings, null, 2) + "\n"], {type: "application/json"});
        const address = URL.createObjectURL(content);
        ty.el("a", {href: address, download: `${settings.name || "job"}.json`}).click();
        URL.revokeObjectURL(address);
    }

    ty.takeFile = take;

    ty.starters.push(() => {
        const reset = () => ty.replaced(ty.reset, "The settings are as they were at first; what it learns from is kept.");
        const actions = {load, save, rename, delete: remove, reset, download};
        for (const [name, work] of Object.entries(actions)) {
            ty.at("preset_" + name).addEventListener("click", () => {
                closeMenu();
                ty.attempt(work);
            });
        }
        ty.at("preset").addEventListener("change", buttons);
        const input = ty.at("preset_file");
        ty.at("preset_import").addEventListener("click", () => { closeMenu(); input.click(); });
        input.addEventListener("change", () => {
            if (input.files.length) ty.attempt(() => take(input.files[0]));
            input.value = "";
        });
        const zone = ty.at("presets");
        const over = (on) => (event) => {
            event.preventDefault();
            event.stopPropagation();
            zone.classList.toggle("trainyard_over", on);
            if (event.type === "drop" && event.dataTransfer.files.length) {
                ty.attempt(() => take(event.dataTransfer.files[0]));
            }
        };
        zone.addEventListener("dragover", over(true));
        zone.addEventListener("dragleave", over(false));
        zone.addEventListener("drop", over(false));
        // not "click", which the form's own scripts send, too
        document.addEventListener("pointerdown", (event) => { if (!event.target.closest(MENU)) closeMenu(); });
        document.addEventListener("keydown", (event) => {
            const menu = event.key === "Escape" && ty.root.querySelector(`${MENU}[open]`);
            if (!menu) return;
            closeMenu();
            menu.querySelector("summary").focus();
        });
        ty.attempt(list);
    });

    function closeMenu() {
        for (const menu of ty.root.querySelectorAll(MENU)) menu.open = false;
    }
})(window.trainyard);
