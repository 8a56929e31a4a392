setInterval(() => {
  const playing = [...document.querySelectorAll("audio")].some((audio) => !audio.paused);
  if (document.getElementById("reload").checked && !playing) location.reload();
}, RELOAD_MS);
