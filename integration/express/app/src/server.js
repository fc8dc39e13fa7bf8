import { createShop } from './app.js';

const { app, close } = await createShop(process.env.REDIS_URL ?? 'redis://127.0.0.1:6379');
const server = app.listen(Number(process.env.PORT ?? 3000), '127.0.0.1', () => console.log(`listening at ${server.address().port}`));
process.on('SIGTERM', () => server.close(() => close().finally(() => process.exit(0))));
