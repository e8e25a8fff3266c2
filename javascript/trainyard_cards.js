/* The webui's own Lora tabs: the card of a file that was just made. */
"use strict";

(function (ty) {
    const TABS = ["txt2img", "img2img"];
    const stale = new Set(); // tabs whose cards were drawn before the newest file was there
    let known = null; // what has been made so far

    /** Presses the webui's Refresh in the Lora tabs that can be seen; the others wait until they can. */
    ty.freshenCards = function () {
        for (const tab of stale) {
            const button = document.querySelector(`#${tab}_lora_extra_refresh, #${tab}_extra_refresh`);
            if (!button || !button.offsetParent) continue;
            stale.delete(tab);
            button.click();
        }
    };

    /** Files of the jobs; again when a job is done, because its picture comes last. */
    const made = (jobs) => jobs.filter((job) => job.method !== ty.GRID)
        .flatMap((job) => job.files.map((file) => `${job.id} ${job.state === "done"} ${file}`));

    ty.starters.push(() => {
        ty.listeners.push((status) => {
            const now = made(status.jobs);
            if (known && now.some((one) => !known.has(one))) TABS.forEach((tab) => stale.add(tab));
            known = new Set(now);
            ty.freshenCards();
        });
        document.addEventListener("click", () => setTimeout(ty.freshenCards, 200)); // a tab was opened
    });
})(window.trainyard);
