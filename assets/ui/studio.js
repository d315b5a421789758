// The page's own JavaScript: an address for each tab. Run once by Gradio when the page has loaded.
() => {
  const OWN_TABS = ["studio", "lesson", "explore"];
  const tabButton = (name) =>
    [...document.querySelectorAll("#sage-tabs [role=tab]")].find((tab) => tab.dataset.tabId === name);

  // -- tabs: #lesson (or ?tab=lesson) opens the lesson; a change of tab changes the address -----
  const wanted = () =>
    location.hash.slice(1) || new URLSearchParams(location.search).get("tab") || "";
  const openTab = () => tabButton(wanted().toLowerCase())?.click();
  document.addEventListener("click", (event) => {
    const tab = event.target.closest("#sage-tabs [role=tab]");
    if (OWN_TABS.includes(tab?.dataset.tabId)) history.replaceState(null, "", "#" + tab.dataset.tabId);
  });
  window.addEventListener("hashchange", openTab);
  openTab();
}
