/* What there is to choose from: checkpoints, VAEs and LoRAs, as the folders hold them now. */
"use strict";

(function (ty) {
    let offered = {}; // names by what a field picks
    let made = null; // the files of the jobs, as last seen
    let stale = false, asking = false;

    /** The choices of a field as Gradio takes them; undefined where it picks nothing of that kind. */
    ty.choicesOf = function (one) {
        const names = one.section === "second" ? undefined : offered[one.picks];
        if (!names) return undefined;
        const list = one.required ? names : ["", ...names];
        return ty.facts.pairs ? list.map((name) => [name, name]) : list;
    };

    /** Asks the server anew: the names, the checkpoint that is loaded, and whether names have changed. */
    ty.askChoices = async function () {
        const {choices, loaded} = await ty.ask("choices");
        const changed = JSON.stringify(choices) !== JSON.stringify(offered);
        offered = choices;
        return {choices, loaded, changed};
    };

    /** Once at a time, and only while the form is in sight: folders may be slow to look through. */
    async function freshen() {
        if (!stale || asking || !ty.root.offsetParent) return;
        stale = false;
        asking = true;
        try {
            if ((await ty.askChoices()).changed) await ty.offer();
        } catch {
            stale = true; // that the server does not answer is told elsewhere
        } finally {
            asking = false;
        }
    }

    ty.starters.push(() => {
        ty.listeners.push((status) => {
            const now = JSON.stringify(status.jobs.flatMap((job) => job.files));
            if (made !== null && made !== now) stale = true;
            made = now;
            freshen();
        });
        window.addEventListener("focus", () => { stale = true; }); // perhaps back with a new file
    });
})(window.trainyard);
