// A classic script, because it must run where modules do not: in a page that was opened from a file.
addEventListener('DOMContentLoaded', () => {
  if (location.protocol !== 'file:') return;
  const told = document.getElementById('notice');
  told.textContent = 'This page was opened from a file, and browsers load no modules from there. '
    + 'Run `edgetalker view` and open the address that it prints.';
  told.hidden = false;
});
