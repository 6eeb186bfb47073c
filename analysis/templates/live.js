"use strict";
{
  const now = document.getElementById("now");
  const look = async () => {
    try {
      const response = await fetch("now");
      if (!response.ok) throw new Error(response.status);
      const text = await response.text();
      if (response.headers.get("X-Report") !== now.dataset.report) return location.reload();
      now.innerHTML = text;
    } catch {
      now.classList.add("stale");
      return setTimeout(look, 10000);
    }
    now.classList.remove("stale");
    setTimeout(look, 3000);
  };
  look();
}
