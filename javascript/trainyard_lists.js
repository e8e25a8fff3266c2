/* What there is to choose from: checkpoints, VAEs and LoRAs, as the folders hold them now. */
"use strict";

(function (ty) {
    let offered = {}; // names by what a field picks
    let made = null; // the files of the jobs, as last seen

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

    async function freshen() {
        if ((await ty.askChoices()).changed) await ty.offer();
    }

    ty.starters.push(() => {
        // a list that is a little old is no reason to disturb; the server's silence is told elsewhere
        const soon = ty.later(() => freshen().catch(() => {}), 300);
        ty.listeners.push((status) => {
            const now = JSON.stringify(status.jobs.flatMap((job) => job.files));
            if (made !== null && made !== now) soon();
            made = now;
        });
        window.addEventListener("focus", soon); // back from another program, perhaps with a new file
    });
})(window.trainyard);
